// When blocks of a sequence are encoded and when attention begins to read them as codes: a pure function of token counts, so
// that a client with local placement and the daemon agree at every length and results never depend on timing.
#pragma once

#include <cstdint>

namespace kvant::quantizers {

/// Tokens between a block being due and being switched: the time its encoding has before an advance must wait for it.
constexpr std::uint64_t SealSlack(std::uint32_t block_tokens) noexcept { return block_tokens / 4; }

/// Counts of leading blocks of a sequence.
struct SealCounts {
  std::uint64_t due = 0;       ///< blocks whose encoding has been started
  std::uint64_t switched = 0;  ///< blocks that attention reads as codes; raw rows begin at switched * block_tokens
  friend constexpr bool operator==(const SealCounts&, const SealCounts&) = default;
};

/// The counts at `length` tokens. Block k is due from length (k+1) * block_tokens + recent_tokens on and switches SealSlack
/// tokens later. What a sequence really has follows from its history too: Progress.
constexpr SealCounts ScheduledSeals(std::uint64_t length, std::uint32_t block_tokens, std::uint32_t recent_tokens) noexcept {
  const auto blocks_older_than = [&](std::uint64_t tokens) { return length > tokens ? (length - tokens) / block_tokens : 0; };
  return {blocks_older_than(recent_tokens), blocks_older_than(recent_tokens + SealSlack(block_tokens))};
}

/// Rows a tail must have (TailLayout::capacity): what stays raw just before a switch, and the rows of the next step.
/// A multiple of block_tokens.
constexpr std::uint64_t TailCapacity(std::uint32_t block_tokens, std::uint32_t recent_tokens,
                                     std::uint32_t max_step_tokens) noexcept {
  const std::uint64_t rows = std::uint64_t{recent_tokens} + SealSlack(block_tokens) + block_tokens + max_step_tokens;
  return (rows + block_tokens - 1) / block_tokens * block_tokens;
}

}  // namespace kvant::quantizers
