#include "protocol/snapshot/verify.h"

#include <cstddef>

#include <xxhash.h>

#include "protocol/digest.h"

namespace kvant::snapshot {
namespace {

std::uint64_t Checksum(std::span<const std::byte> bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

}  // namespace

Result<std::vector<DamagedBlock>> VerifyPayloads(const SnapshotReader& reader, const Progress& progress) {
  std::vector<DamagedBlock> damaged;
  std::vector<std::byte> buffer;
  std::uint64_t done = 0;
  const auto note = [&](const StoredStore& store, std::size_t block, std::string what) {
    damaged.push_back({.store = store.spec.name,
                       .chain = protocol::DigestHex(store.chains[block]),
                       .position = store.positions[block],
                       .what = std::move(what)});
  };
  const auto take = [&](std::uint64_t bytes) -> Result<void> {
    if (progress && !progress(done, reader.bytes())) return Error{ErrorCode::kUnavailable, "verify: cancelled"};
    if (bytes > kMaxPieceBytes) {
      return Error{ErrorCode::kOutOfRange, reader.name() + ": a block of " + std::to_string(bytes) + " bytes, at most " +
                                               std::to_string(kMaxPieceBytes) + " are read"};
    }
    if (buffer.size() < bytes) buffer.resize(bytes);
    done += bytes;
    return {};
  };
  for (const StoredStore& store : reader.stores()) {
    for (std::size_t i = 0; i < store.blocks(); ++i) {
      if (auto taken = take(store.bytes[i]); !taken) return taken.error();
      if (auto read = reader.ReadCodes(store, i, buffer); !read) return read.error();
      if (Checksum(std::span<const std::byte>(buffer).first(store.bytes[i])) != store.checksums[i]) note(store, i, "codes");
    }
    for (std::size_t i = 0; i < store.parts.size(); ++i) {
      const PartRow& part = store.parts[i];
      if (auto taken = take(part.bytes); !taken) return taken.error();
      if (auto read = reader.ReadPart(store, i, buffer); !read) return read.error();
      if (Checksum(std::span<const std::byte>(buffer).first(part.bytes)) != part.checksum) {
        const bool sinks = part.kind == static_cast<std::uint64_t>(protocol::BlockKind::kSinks);
        note(store, part.block, sinks ? "sinks" : "state");
      }
    }
  }
  return damaged;
}

}  // namespace kvant::snapshot
