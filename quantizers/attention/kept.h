// Which of a layer's cached tokens take part in attention. Tokens that do not are as if they had never been there; those that
// do keep their positions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace kvant::quantizers {

/// Positions [begin, end).
struct Range {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  [[nodiscard]] bool empty() const noexcept { return begin >= end; }
};

/// A window that moves with the query, and a list of tokens per KV head; the default hides nothing. The list is one bit per
/// token: any bits are a valid list, so that it may lie in another process's arena and change at any time.
struct KeptTokens {
  std::uint32_t window = 0;       ///< newest tokens that a query sees, its own included; 0: all
  std::uint32_t sinks = 0;        ///< with a window: first tokens that it sees, too
  std::uint32_t whole_below = 0;  ///< with a window: queries at positions below this see everything
  /// Token p of KV head h takes part if bit p % 64 of bits[h * words + p / 64] is set, or if p >= end. Null: all do.
  const std::uint64_t* bits = nullptr;
  std::size_t words = 0;  ///< of one head: at least WordsOf(end)
  std::uint64_t end = 0;

  static constexpr std::size_t WordsOf(std::uint64_t tokens) noexcept {
    return static_cast<std::size_t>(tokens / 64 + (tokens % 64 == 0 ? 0 : 1));
  }

  [[nodiscard]] bool all() const noexcept { return window == 0 && bits == nullptr; }

  /// What the window hides from the query at `position`. It grows with the position.
  [[nodiscard]] Range Gap(std::uint64_t position) const noexcept {
    if (window == 0 || position < whole_below || position + 1 <= window) return {};
    return {sinks, position + 1 - window};
  }

  /// Token p's bit and those above it in its word, from bit 0 on. Requires: bits, p < end.
  [[nodiscard]] std::uint64_t Word(std::size_t head, std::uint64_t p) const noexcept {
    return bits[head * words + static_cast<std::size_t>(p / 64)] >> (p % 64);
  }

  /// True if the list has any token of the range.
  [[nodiscard]] bool ListHas(std::size_t head, const Range& range) const noexcept {
    if (range.empty()) return false;
    if (bits == nullptr || range.end > end) return true;
    for (std::uint64_t p = range.begin; p < range.end; p = (p / 64 + 1) * 64) {
      const std::uint64_t word = Word(head, p);
      if (word != 0 && p + static_cast<std::uint64_t>(std::countr_zero(word)) < range.end) return true;
    }
    return false;
  }

  /// True if anything of the range takes part for a query with that gap.
  [[nodiscard]] bool Has(std::size_t head, const Range& range, const Range& gap) const noexcept {
    if (gap.empty()) return ListHas(head, range);
    return ListHas(head, {range.begin, range.end < gap.begin ? range.end : gap.begin}) ||
           ListHas(head, {range.begin > gap.end ? range.begin : gap.end, range.end});
  }
};

}  // namespace kvant::quantizers
