// The daemon's view of a sequence's raw rows, which lie in a client's arena.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <kvant/result.h>

#include "quantizers/attention/attention.h"
#include "quantizers/sequence/ring.h"

namespace kvant::daemon {

/// A checked place in a mapped arena. The client writes there at any time: every element is read once, and what is read is not
/// trusted. Whoever makes a TailView has checked that [base, base + layout.total_bytes()) lies inside the mapping.
struct TailView {
  std::byte* base = nullptr;  ///< 64-byte aligned
  quantizers::TailLayout layout;
  std::shared_ptr<const void> mapping;  ///< keeps the memory mapped: encoding jobs outlive the session that made them

  [[nodiscard]] std::byte* Ring(std::size_t layer, std::size_t side, std::size_t head) const noexcept {
    return base + layout.Offset(layer, side, head);
  }
};

/// Writes attention's views of positions [first, first + count) of one layer into `pieces` (room for 2), empty runs left
/// out; returns how many. Requires: count <= capacity.
std::size_t TailPieces(const TailView& tail, std::size_t layer, std::uint64_t first, std::uint64_t count,
                       std::span<quantizers::RawRows> pieces);

/// Copies positions [first, first + count) of all layers and heads from one tail into another, converting the element
/// type; returns the bytes written. kNotFinite if a row holds NaN, infinity or a number beyond the target's type; the target's
/// rows are then garbage (they lie beyond its sequence's length). Requires: same shape, count <= both capacities.
Result<std::uint64_t> CopyRows(const TailView& from, const TailView& to, std::uint64_t first, std::uint64_t count);

/// Writes `count` rows of f32 ([count, head_dim], adjacent) of one ring at positions [first, first + count). Errors as
/// CopyRows.
Result<void> StoreRows(const TailView& to, std::size_t layer, std::size_t side, std::size_t head, std::uint64_t first,
                       std::uint64_t count, const float* rows);

}  // namespace kvant::daemon
