#include "protocol/snapshot/verify.h"

#include <algorithm>
#include <cstddef>

#include <xxhash.h>

#include "protocol/digest.h"

namespace kvant::snapshot {
namespace {

constexpr std::uint64_t kWindowBytes = std::uint64_t{1} << 20;

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
    const std::uint64_t row = store.payload_bytes;
    const std::size_t rows = row == 0 ? store.blocks() : std::max<std::uint64_t>(1, kWindowBytes / row);
    for (std::size_t first = 0; first < store.blocks(); first += rows) {
      const std::size_t count = std::min(rows, store.blocks() - first);
      if (auto taken = take(count * row); !taken) return taken.error();
      if (auto read = reader.ReadCodes(store, first, count, buffer); !read) return read.error();
      for (std::size_t i = 0; i < count; ++i) {
        const auto codes = std::span<const std::byte>(buffer).subspan(i * row, row);
        if (Checksum(codes) != store.checksums[first + i]) note(store, first + i, "codes");
      }
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
