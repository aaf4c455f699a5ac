#include "protocol/block_format.h"

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include <xxhash.h>

#include "protocol/hidden_slot.h"

namespace kvant::protocol {
namespace {

/// XXH3-64 of the header before its checksum field, followed by the token ids.
std::uint64_t HeaderChecksum(const BlockHeader& header, const std::byte* token_ids, std::size_t token_bytes) {
  std::vector<std::byte> text(offsetof(BlockHeader, header_checksum) + token_bytes);
  std::memcpy(text.data(), &header, offsetof(BlockHeader, header_checksum));
  if (token_bytes != 0) std::memcpy(text.data() + offsetof(BlockHeader, header_checksum), token_ids, token_bytes);
  return XXH3_64bits(text.data(), text.size());
}

Error Corrupt(const std::string& message) { return {ErrorCode::kCorrupt, "block slot: " + message}; }

/// The header as it was checked: the slot may change under a reader that is no longer entitled to it.
Result<BlockHeader> CheckHeader(std::span<const std::byte> slot, std::uint32_t block_tokens) {
  const std::size_t payload_offset = PayloadOffset(block_tokens);
  if (slot.size() < payload_offset) return Corrupt("shorter than its header and token ids");
  BlockHeader header;
  std::memcpy(&header, slot.data(), sizeof header);
  if (header.magic != kBlockMagic) return Corrupt("no block magic");
  if (header.layout_version != kSegmentLayoutVersion) {
    return Corrupt("layout version " + std::to_string(header.layout_version) + ", expected " +
                   std::to_string(kSegmentLayoutVersion));
  }
  if (header.kind != BlockKind::kCodes && header.kind != BlockKind::kSinks && header.kind != BlockKind::kState) {
    return Corrupt("kind " + std::to_string(static_cast<unsigned>(header.kind)));
  }
  if (header.token_count > block_tokens) return Corrupt("token count " + std::to_string(header.token_count));
  if (header.payload_bytes > slot.size() - payload_offset) {
    return Corrupt("payload of " + std::to_string(header.payload_bytes) + " bytes in a slot of " + std::to_string(slot.size()));
  }
  const std::size_t token_bytes = header.token_count * sizeof(std::uint32_t);
  if (HeaderChecksum(header, slot.data() + sizeof header, token_bytes) != header.header_checksum) {
    return Corrupt("header checksum differs");
  }
  return header;
}
}  // namespace

void ClearSlot(std::byte* slot) noexcept { std::memset(slot, 0, sizeof(BlockHeader)); }

namespace {

/// Writes token ids and padding; the header that makes them and the payload a block.
BlockHeader WriteTokens(std::byte* slot, std::uint32_t block_tokens, const BlockInfo& info,
                        std::span<const std::uint32_t> tokens, std::uint64_t payload_bytes) {
  const std::size_t payload_offset = PayloadOffset(block_tokens);
  std::byte* ids = slot + sizeof(BlockHeader);
  std::memcpy(ids, tokens.data(), tokens.size_bytes());
  std::memset(ids + tokens.size_bytes(), 0, payload_offset - sizeof(BlockHeader) - tokens.size_bytes());

  BlockHeader header{};
  header.magic = kBlockMagic;
  header.kind = info.kind;
  header.layout_version = static_cast<std::uint16_t>(kSegmentLayoutVersion);
  header.token_count = static_cast<std::uint32_t>(tokens.size());
  header.element_type = info.element_type;
  header.identity = info.identity;
  header.chain = info.chain;
  header.parent = info.parent;
  header.first_position = info.first_position;
  header.generation = info.generation;
  header.payload_bytes = payload_bytes;
  header.payload_checksum = XXH3_64bits(slot + payload_offset, payload_bytes);
  header.header_checksum = HeaderChecksum(header, ids, tokens.size_bytes());
  return header;
}

}  // namespace

void FinishSlot(std::byte* slot, std::uint32_t block_tokens, const BlockInfo& info, std::span<const std::uint32_t> tokens,
                std::uint64_t payload_bytes) {
  const BlockHeader header = WriteTokens(slot, block_tokens, info, tokens, payload_bytes);
  std::memcpy(slot, &header, sizeof header);
}

void FinishHiddenSlot(std::byte* slot, std::uint32_t block_tokens, const BlockInfo& info, std::span<const std::uint32_t> tokens,
                      std::uint64_t payload_bytes) {
  BlockHeader header = WriteTokens(slot, block_tokens, info, tokens, payload_bytes);
  header.magic = 0;
  std::memcpy(slot, &header, sizeof header);
}

void RevealSlot(std::byte* slot) noexcept { reinterpret_cast<BlockHeader*>(slot)->magic = kBlockMagic; }

Result<void> ShortenSlot(std::span<std::byte> slot, std::uint32_t block_tokens, std::uint64_t payload_bytes) {
  if (Result<void> whole = VerifySlot(slot, block_tokens); !whole) return whole;
  BlockHeader header;
  std::memcpy(&header, slot.data(), sizeof header);
  header.payload_bytes = payload_bytes;
  header.payload_checksum = XXH3_64bits(slot.data() + PayloadOffset(block_tokens), payload_bytes);
  header.header_checksum = HeaderChecksum(header, slot.data() + sizeof header, header.token_count * sizeof(std::uint32_t));
  std::memcpy(slot.data(), &header, sizeof header);
  return {};
}

Result<void> VerifySlotHeader(std::span<const std::byte> slot, std::uint32_t block_tokens) {
  if (const auto header = CheckHeader(slot, block_tokens); !header) return header.error();
  return {};
}

Result<void> VerifySlot(std::span<const std::byte> slot, std::uint32_t block_tokens) {
  const auto header = CheckHeader(slot, block_tokens);
  if (!header) return header.error();
  if (XXH3_64bits(slot.data() + PayloadOffset(block_tokens), header->payload_bytes) != header->payload_checksum) {
    return Corrupt("payload checksum differs");
  }
  return {};
}

}  // namespace kvant::protocol
