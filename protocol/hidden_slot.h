// Slots that are whole but hold nothing yet, as far as a reader after a crash can see.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "protocol/block_format.h"

namespace kvant::protocol {

/// As FinishSlot, but for the magic: until RevealSlot the slot counts as free.
void FinishHiddenSlot(std::byte* slot, std::uint32_t block_tokens, const BlockInfo& info, std::span<const std::uint32_t> tokens,
                      std::uint64_t payload_bytes);

/// One store of 4 bytes. Requires: FinishHiddenSlot, and nothing else since.
void RevealSlot(std::byte* slot) noexcept;

}  // namespace kvant::protocol
