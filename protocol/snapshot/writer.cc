#include "protocol/snapshot/writer.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>
#include <utility>

#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "protocol/block_format.h"
#include "protocol/digest.h"
#include "protocol/snapshot/durable_file.h"
#include "protocol/spec_message.h"
#include "protocol/system_error.h"

namespace kvant::snapshot {
namespace {

using protocol::BlockHeader;
using protocol::BlockKind;

/// Written at once: small enough to lie in a cache between its checksum and its copy.
constexpr std::size_t kBatchBytes = std::size_t{1} << 20;
constexpr std::size_t kBatchPieces = 64;
static_assert(kBatchPieces <= IOV_MAX);
constexpr std::uint64_t kWindowBytes = std::uint64_t{8} << 20;

/// Gathers pieces that stay where they are and writes them together.
class Output {
 public:
  Output(int fd, std::uint64_t all, const Progress& progress) : fd_(fd), all_(all), progress_(progress) {}

  Result<void> Add(std::span<const std::byte> bytes) {
    if (bytes.empty()) return {};
    pieces_.push_back({.iov_base = const_cast<std::byte*>(bytes.data()), .iov_len = bytes.size()});  // NOLINT: writev reads
    pending_ += bytes.size();
    if (pending_ < kBatchBytes && pieces_.size() < kBatchPieces) return {};
    return Flush();
  }

  Result<void> Flush() {
    std::span<iovec> left = pieces_;
    while (!left.empty()) {
      const ssize_t written = ::writev(fd_, left.data(), static_cast<int>(left.size()));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) {
        return protocol::SystemError("write snapshot: " + std::to_string(done_) + " of " + std::to_string(all_) + " bytes",
                                     errno);
      }
      done_ += static_cast<std::uint64_t>(written);
      auto gone = static_cast<std::size_t>(written);
      while (!left.empty() && gone >= left.front().iov_len) {
        gone -= left.front().iov_len;
        left = left.subspan(1);
      }
      if (gone != 0) {
        left.front().iov_base = static_cast<std::byte*>(left.front().iov_base) + gone;
        left.front().iov_len -= gone;
      }
    }
    pieces_.clear();
    pending_ = 0;
    WriteBehind();
    if (progress_ && !progress_(done_, all_)) return Error{ErrorCode::kUnavailable, "write snapshot: cancelled"};
    return {};
  }

 private:
  /// Has the system write to the disk as the file grows, so that at most two windows wait for fsync, however large it becomes:
  /// who gives up does so in time. What fails here fails at fsync.
  void WriteBehind() {
    for (; done_ - behind_ >= kWindowBytes; behind_ += kWindowBytes) {
      ::sync_file_range(fd_, static_cast<off_t>(behind_), kWindowBytes, SYNC_FILE_RANGE_WRITE);
      if (behind_ < kWindowBytes) continue;
      ::sync_file_range(fd_, static_cast<off_t>(behind_ - kWindowBytes), kWindowBytes,
                        SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
    }
  }

  const int fd_;
  const std::uint64_t all_;
  const Progress& progress_;
  std::vector<iovec> pieces_;
  std::size_t pending_ = 0;
  std::uint64_t done_ = 0;
  std::uint64_t behind_ = 0;  // up to here the system has begun to write
};

Error Damaged(const StoreToSave& store, std::size_t block, const std::string& why) {
  return {ErrorCode::kCorrupt, "save store " + store.spec.name + ": its block " + std::to_string(block) + " of " +
                                   std::to_string(store.blocks.size()) + ": " + why};
}

/// A slot's header, its sizes checked against the slot; whether the bytes are whole is seen when they are written.
Result<BlockHeader> HeaderOf(const StoreToSave& store, std::size_t block, std::span<const std::byte> slot, BlockKind kind) {
  const std::uint32_t block_tokens = store.spec.block_tokens;
  const std::size_t offset = protocol::PayloadOffset(block_tokens);
  BlockHeader header{};
  if (slot.size() < offset) return Damaged(store, block, "its slot is shorter than a header");
  std::memcpy(&header, slot.data(), sizeof header);
  if (header.magic != protocol::kBlockMagic || header.kind != kind || header.identity != store.identity ||
      header.payload_bytes > slot.size() - offset || (kind != BlockKind::kSinks && header.token_count != block_tokens)) {
    return Damaged(store, block, "its slot holds something else");
  }
  return header;
}

Result<void> AddPart(const StoreToSave& store, std::size_t block, std::span<const std::byte> slot, BlockKind kind,
                     StoreTables& tables) {
  if (slot.empty()) return {};
  auto header = HeaderOf(store, block, slot, kind);
  if (!header) return header.error();
  tables.parts.push_back({.block = block,
                          .kind = static_cast<std::uint64_t>(kind),
                          .element_type = header->element_type,
                          .bytes = header->payload_bytes,
                          .checksum = header->payload_checksum});
  tables.extra_bytes += header->payload_bytes;
  return {};
}

Result<StoreTables> TablesOf(const StoreToSave& store) {
  StoreTables tables;
  tables.spec = store.spec;
  tables.plan = store.plan;
  tables.identity = store.identity;
  tables.tenant = store.tenant;
  tables.spec_message = wire::WriteSpecMessage(store.spec);
  for (std::size_t i = 0; i < store.blocks.size(); ++i) {
    const BlockSlots& block = store.blocks[i];
    auto header = HeaderOf(store, i, block.codes, BlockKind::kCodes);
    if (!header) return header.error();
    tables.positions.push_back(header->first_position);
    tables.parents.push_back(block.parent);
    tables.checksums.push_back(header->payload_checksum);
    tables.bytes.push_back(header->payload_bytes);
    tables.codes_bytes += header->payload_bytes;
    tables.chains.push_back(header->chain);
    const auto tokens = protocol::SlotTokens(block.codes.data(), store.spec.block_tokens);
    tables.tokens.insert(tables.tokens.end(), tokens.begin(), tokens.end());
    if (auto added = AddPart(store, i, block.sinks, BlockKind::kSinks, tables); !added) return added.error();
    if (auto added = AddPart(store, i, block.state, BlockKind::kState, tables); !added) return added.error();
  }
  return tables;
}

/// The payload of a slot, held against its checksums and against what the index says of it.
Result<void> AddPayload(const StoreToSave& store, std::size_t block, std::span<const std::byte> slot, std::uint64_t bytes,
                        std::uint64_t checksum, Output& output) {
  auto whole = protocol::VerifySlot(slot, store.spec.block_tokens);
  if (!whole) return Damaged(store, block, whole.error().message);
  BlockHeader header{};
  std::memcpy(&header, slot.data(), sizeof header);
  if (header.payload_checksum != checksum || header.payload_bytes != bytes) {
    return Damaged(store, block, "it was rewritten while it was saved");
  }
  return output.Add(slot.subspan(protocol::PayloadOffset(store.spec.block_tokens), bytes));
}

Result<void> AddPayloads(const StoreToSave& store, const StoreTables& tables, Output& output) {
  for (std::size_t i = 0; i < store.blocks.size(); ++i) {
    auto added = AddPayload(store, i, store.blocks[i].codes, tables.bytes[i], tables.checksums[i], output);
    if (!added) return added;
  }
  for (const PartRow& part : tables.parts) {
    const BlockSlots& block = store.blocks[part.block];
    const bool sinks = part.kind == static_cast<std::uint64_t>(BlockKind::kSinks);
    auto added = AddPayload(store, part.block, sinks ? block.sinks : block.state, part.bytes, part.checksum, output);
    if (!added) return added;
  }
  return {};
}

}  // namespace

Result<SavedFigures> WriteSnapshot(int fd, std::span<const StoreToSave> stores, std::string_view writer,
                                   const Progress& progress) {
  const FileSizeSignalBlock no_signal;
  std::vector<StoreTables> tables;
  SavedFigures figures{.stores = stores.size(), .blocks = 0, .bytes = 0};
  for (const StoreToSave& store : stores) {
    auto made = TablesOf(store);
    if (!made) return made.error();
    figures.blocks += store.blocks.size();
    tables.push_back(*std::move(made));
  }
  const auto tensors = Tensors(tables);
  const auto head = quantizers::WriteSafetensorsHead(tensors, Metadata(tables, writer));
  if (head.size() > quantizers::SafetensorsHeader::kLengthBytes + quantizers::kMaxSafetensorsHeader) {
    return Error{ErrorCode::kOutOfRange, "save " + std::to_string(stores.size()) + " stores: a header of that many has " +
                                             std::to_string(head.size()) + " bytes, readers take " +
                                             std::to_string(quantizers::kMaxSafetensorsHeader) + "; save fewer at a time"};
  }

  XXH3_state_t* const hash = XXH3_createState();
  if (hash == nullptr) return Error{ErrorCode::kSystem, "write snapshot: no memory for a digest"};
  XXH3_128bits_reset(hash);
  std::uint64_t all = head.size() + sizeof(protocol::Digest);
  for (const auto& tensor : tensors) all += tensor.bytes.size();
  for (const StoreTables& store : tables) all += store.codes_bytes + store.extra_bytes;

  Output output(fd, all, progress);
  Result<void> added = output.Add(head);
  XXH3_128bits_update(hash, head.data(), head.size());
  for (const auto& tensor : tensors) {
    if (tensor.bytes.empty()) continue;
    XXH3_128bits_update(hash, tensor.bytes.data(), tensor.bytes.size());
    if (added) added = output.Add(tensor.bytes);
  }
  XXH128_canonical_t digest;
  XXH128_canonicalFromHash(&digest, XXH3_128bits_digest(hash));
  XXH3_freeState(hash);
  for (std::size_t i = 0; i < stores.size() && added; ++i) added = AddPayloads(stores[i], tables[i], output);
  if (added) added = output.Add(std::as_bytes(std::span(digest.digest)));
  if (added) added = output.Flush();
  if (!added) return added.error();
  figures.bytes = all;
  return figures;
}

}  // namespace kvant::snapshot
