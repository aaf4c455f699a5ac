// Writing and checking of block slots: BlockHeader, token ids, zero padding, payload. See SEGMENT.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <kvant/result.h>

#include "protocol/segment_layout.h"

namespace kvant::protocol {

/// What a header says beyond sizes and checksums.
struct BlockInfo {
  BlockKind kind = BlockKind::kCodes;
  std::uint32_t element_type = 0;
  Digest identity{};
  Digest chain{};
  Digest parent{};
  std::uint64_t first_position = 0;
  std::uint64_t generation = 0;
};

/// Marks a slot as holding nothing, before its payload is written: a reader after a crash must not take it for a block.
void ClearSlot(std::byte* slot) noexcept;

/// Writes token ids, padding and header around a payload that is already in place (`slot` + PayloadOffset(block_tokens)).
/// `tokens.size()` <= block_tokens. The header is written last.
void FinishSlot(std::byte* slot, std::uint32_t block_tokens, const BlockInfo& info, std::span<const std::uint32_t> tokens,
                std::uint64_t payload_bytes);

/// Checks a slot of `slot_bytes` bytes against everything its header says: magic, version, sizes, both checksums.
/// kCorrupt names what failed. Reads only inside the slot, whatever it holds.
Result<void> VerifySlot(std::span<const std::byte> slot, std::uint32_t block_tokens);

/// The same without the payload's checksum: whether the slot was finished. Reads the header and the token ids.
Result<void> VerifySlotHeader(std::span<const std::byte> slot, std::uint32_t block_tokens);

/// Makes a slot end with the first `payload_bytes` of its payload: writes size and checksums, after it has checked those that
/// stand there. kCorrupt as VerifySlot, and then nothing was changed. Requires: no more than the payload has.
Result<void> ShortenSlot(std::span<std::byte> slot, std::uint32_t block_tokens, std::uint64_t payload_bytes);

/// The token ids behind a slot's header.
inline std::span<const std::uint32_t> SlotTokens(const std::byte* slot, std::uint32_t count) noexcept {
  return {reinterpret_cast<const std::uint32_t*>(slot + sizeof(BlockHeader)), count};
}

}  // namespace kvant::protocol
