// A sequence as attention reads it: sealed blocks as codes, sinks and the tail as raw rows. Both placements build what the
// kernels see here, so that they see the same.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include <kvant/result.h>
#include <kvant/tensor.h>

#include "quantizers/attention/attention.h"
#include "quantizers/sequence/ring.h"
#include "quantizers/sequence/rows.h"

namespace kvant::quantizers {

/// Where a sequence's cache lies. Valid until the sequence changes.
struct CachedSequence {
  std::span<const std::byte* const> blocks;  ///< payloads of the switched blocks
  std::span<const std::uint8_t> sections;    ///< that each of them has (Plan::sections)
  Sinks sinks;                               ///< read only while a block is switched
  Tail tail;                                 ///< holds the rows from position blocks.size() * block_tokens on
  std::uint64_t length = 0;                  ///< tokens
};

/// One layer of it. Refers to the memory of the CachedSequence.
struct LayerView {
  std::array<RawRows, 3> raw;  ///< sinks, the tail up to where its ring wraps, the tail behind that
  std::size_t raw_count = 0;
  std::span<const std::byte* const> blocks;
  std::span<const std::uint8_t> sections;
  std::uint8_t not_finite = 0;  ///< set by attention over it
};

/// The layer's cache with `new_rows` rows behind the sequence's length. Requires: those fit the tail.
[[nodiscard]] LayerView ViewLayer(const CachedSequence& sequence, std::uint32_t block_tokens, std::size_t layer,
                                  std::uint64_t new_rows) noexcept;

/// What a caller asks of one layer.
struct AttendRequest {
  std::size_t layer = 0;
  /// Rows behind the sequence's length that are written in this layer; 0 for a probe of what is cached. Query t sees them up to
  /// its own position.
  std::uint64_t new_rows = 0;
  ConstTensorView q;  ///< [tokens, q_heads, head_dim]
  TensorView out;
  float* lse = nullptr;                ///< [tokens, q_heads]; null if not wanted
  const float* sink_logits = nullptr;  ///< [q_heads]; null for none
  float scale = 0.0f;
  float softcap = 0.0f;
  std::uint32_t window = 0;
  KeptTokens kept = {};  ///< which tokens take part, as for a query that has its row
  /// Not 0: the queries are those of tokens that are part of the sequence, the first of them so many before its end.
  std::uint64_t from_end = 0;
  float* votes = nullptr;  ///< [kv_heads, votes_stride], see Query; null if not wanted
  std::size_t votes_stride = 0;
};

/// The item that answers a request; `view` is set, and the item refers to it. All checks of a request are made here, once per
/// process: shapes and numbers (kInvalidArgument, kOutOfRange), room for the new rows (kTailFull), and that the new rows are
/// finite (kNotFinite, naming the row).
[[nodiscard]] Result<AttendItem> MakeItem(const Plan& plan, const CachedSequence& sequence, const AttendRequest& request,
                                          LayerView& view);

/// After attention has run: kNotFinite if the result of `item` is not finite, naming the query that is at fault or overflows.
[[nodiscard]] Result<void> CheckResult(const AttendItem& item);

}  // namespace kvant::quantizers
