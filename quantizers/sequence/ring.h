// Where the raw rows of a sequence's tail lie in the client's arena: a ring of rows per layer, side and KV head, and behind it
// spare rows, [layer][keys, values][kv_head][capacity + spare][head_dim]. The row of position p is p % capacity.
//
// The rows of a step that are not part of the sequence yet are adjacent, because an engine writes them as one tensor: they
// begin where the sequence's length falls in the ring and run on into the spare rows where the ring ends. Before they become
// part of the sequence, those in spare rows move to where the ring begins (FoldNewRows).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include <kvant/tensor.h>

namespace kvant::quantizers {

/// Adjacent rows of a ring.
struct RowRun {
  std::uint64_t first_position = 0;
  std::uint64_t first_row = 0;
  std::uint64_t count = 0;
};

/// Positions [first, first + count) of a ring: at most two runs, the second empty unless the ring wraps between them.
using RowRuns = std::array<RowRun, 2>;

/// All counts are checked by whoever fills this in; with kvant's limits (layers, kv_heads, head_dim <= 1024, capacity < 2^32)
/// no size below overflows 64 bits.
struct TailLayout {
  std::uint32_t layers = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t capacity = 0;  ///< rows; a multiple of the store's block_tokens
  std::uint32_t spare = 0;     ///< rows behind the ring
  ElementType type = ElementType::kF16;

  [[nodiscard]] constexpr std::uint64_t row_bytes() const noexcept { return head_dim * std::uint64_t{ElementBytes(type)}; }
  /// Between the first rows of adjacent heads: in rows, and in bytes.
  [[nodiscard]] constexpr std::uint64_t head_rows() const noexcept { return std::uint64_t{capacity} + spare; }
  [[nodiscard]] constexpr std::uint64_t head_bytes() const noexcept { return head_rows() * row_bytes(); }
  /// Between the keys and the values of a layer.
  [[nodiscard]] constexpr std::uint64_t side_bytes() const noexcept { return kv_heads * head_bytes(); }
  [[nodiscard]] constexpr std::uint64_t layer_bytes() const noexcept { return 2 * side_bytes(); }
  [[nodiscard]] constexpr std::uint64_t total_bytes() const noexcept { return layers * layer_bytes(); }

  /// Bytes from the tail's start to the first row of one head's ring; `side` 0 for keys, 1 for values.
  [[nodiscard]] constexpr std::uint64_t Offset(std::uint64_t layer, std::uint64_t side, std::uint64_t head) const noexcept {
    return layer * layer_bytes() + side * side_bytes() + head * head_bytes();
  }

  /// Most new rows behind `length` tokens that are adjacent, whether or not other rows lie there.
  [[nodiscard]] constexpr std::uint64_t AdjacentRows(std::uint64_t length) const noexcept {
    return head_rows() - length % capacity;
  }

  /// Rows of tokens that are part of the sequence. Requires: count <= capacity.
  [[nodiscard]] constexpr RowRuns Runs(std::uint64_t first_position, std::uint64_t count) const noexcept {
    const std::uint64_t row = first_position % capacity;
    const std::uint64_t before_wrap = count < capacity - row ? count : capacity - row;
    return {RowRun{first_position, row, before_wrap}, RowRun{first_position + before_wrap, 0, count - before_wrap}};
  }
};

/// A tail in memory. The memory may be another process's arena, which is written at any time: whoever reads a row reads each
/// element once and trusts none. Whoever fills this in has checked that [base, base + layout.total_bytes()) is mapped.
struct Tail {
  std::byte* base = nullptr;  ///< 64-byte aligned
  TailLayout layout;

  /// The first row of one head's ring; `side` 0 for keys, 1 for values.
  [[nodiscard]] std::byte* Ring(std::size_t layer, std::size_t side, std::size_t head) const noexcept {
    return base + layout.Offset(layer, side, head);
  }
  [[nodiscard]] std::byte* Row(std::size_t layer, std::size_t side, std::size_t head, std::uint64_t position) const noexcept {
    return Ring(layer, side, head) + position % layout.capacity * layout.row_bytes();
  }
  /// Row `index` of the new ones behind `length` tokens. Requires: index < layout.AdjacentRows(length).
  [[nodiscard]] std::byte* NewRow(std::size_t layer, std::size_t side, std::size_t head, std::uint64_t length,
                                  std::uint64_t index) const noexcept {
    return Ring(layer, side, head) + (length % layout.capacity + index) * layout.row_bytes();
  }
};

}  // namespace kvant::quantizers
