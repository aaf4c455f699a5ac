// Raw rows into a tail, out of it and from one to another. Every function that copies refuses rows that are not finite or do
// not fit the target's element type: a row that attention reads or a codec encodes holds numbers.
//
// Errors are kNotFinite and name side, layer, KV head and position; callers put the operation in front.
#pragma once

#include <cstddef>
#include <cstdint>

#include <kvant/result.h>
#include <kvant/tensor.h>

#include "quantizers/sequence/ring.h"

namespace kvant::quantizers {

/// New rows behind a sequence's length (ring.h): those at positions [length + first, length + first + count).
struct NewRowRange {
  std::uint64_t length = 0;
  std::uint64_t first = 0;
  std::uint64_t count = 0;
};

// For the next four, Requires: first + count <= layout.AdjacentRows(length).

/// Refuses NaN and infinity in the keys and values of new rows of one layer.
[[nodiscard]] Result<void> CheckNewRows(const Tail& tail, std::size_t layer, const NewRowRange& range);

/// Fills new rows of all layers with a NaN of its own kind, by which CheckNewRows tells a row that was not written since.
void PoisonNewRows(const Tail& tail, const NewRowRange& range) noexcept;

/// Copies `rows`, [tokens, kv_heads, head_dim], to the first new rows of one layer and side, converting the element type. After
/// an error those rows are garbage.
[[nodiscard]] Result<void> WriteNewRows(const Tail& to, std::size_t layer, std::size_t side, std::uint64_t length,
                                        const ConstTensorView& rows);

/// Moves those of the first `count` new rows that lie behind the ring to its beginning. Requires: no row that counts is there.
void FoldNewRows(const Tail& tail, std::uint64_t length, std::uint64_t count) noexcept;

/// Copies one head's rows to positions [first, first + rows.count), converting the element type. After an error the target's
/// rows are garbage: call this for rows beyond the sequence's length only. Requires: rows.dim == head_dim, rows.count <=
/// capacity.
[[nodiscard]] Result<void> WriteRows(const Tail& to, std::size_t layer, std::size_t side, std::size_t head, std::uint64_t first,
                                     const RowsView& rows);

/// Copies positions [first, first + count) of all layers and heads from one tail into another; returns the bytes written.
/// Requires: same shape, count <= both capacities.
[[nodiscard]] Result<std::uint64_t> CopyRows(const Tail& from, const Tail& to, std::uint64_t first, std::uint64_t count);

/// How the raw rows of a sequence's first tokens (sinks) lie beside its first block: [layer][keys, values][kv_head][tokens]
/// [head_dim], adjacent.
struct SinkLayout {
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t tokens = 0;
  ElementType type = ElementType::kF32;

  [[nodiscard]] constexpr std::uint64_t row_bytes() const noexcept { return head_dim * std::uint64_t{ElementBytes(type)}; }
  [[nodiscard]] constexpr std::uint64_t side_bytes() const noexcept { return kv_heads * tokens * row_bytes(); }
  [[nodiscard]] constexpr std::uint64_t total_bytes(std::uint64_t layers) const noexcept { return layers * 2 * side_bytes(); }
  [[nodiscard]] constexpr std::uint64_t Offset(std::uint64_t layer, std::uint64_t side, std::uint64_t head) const noexcept {
    return (layer * 2 + side) * side_bytes() + head * tokens * row_bytes();
  }
};

/// Sinks in memory; `data` is null for a sequence without them.
struct Sinks {
  const std::byte* data = nullptr;
  SinkLayout layout;
};

/// Copies the tail's first layout.tokens positions to `to`, which has layout.total_bytes(layers) bytes.
/// Requires: the layout has the tail's shape and element type.
[[nodiscard]] Result<void> CopySinks(const Tail& from, const SinkLayout& layout, std::byte* to);

}  // namespace kvant::quantizers
