// Rows of a sequence read back: what its codes decode to, and raw rows as they are.
#pragma once

#include <cstddef>
#include <cstdint>

#include <kvant/result.h>
#include <kvant/tensor.h>

#include "quantizers/attention/aligned_buffer.h"
#include "quantizers/plan.h"
#include "quantizers/sequence/rows.h"
#include "quantizers/sequence/view.h"

namespace kvant::quantizers {

/// Rows [begin, end) of a sealed block: of one layer, KV head and side.
struct BlockRows {
  const std::byte* payload = nullptr;
  std::size_t sections = kMaxParts;  ///< that the payload has (Plan::sections), at most
  std::uint64_t first_position = 0;  ///< of the block
  Sinks sinks;                       ///< of a sequence's first block, if it has any; those rows are exact
  std::size_t layer = 0;
  std::size_t head = 0;
  Side side = Side::kKeys;
  std::size_t begin = 0;
  std::size_t end = 0;
};

/// Decodes blocks of a plan, which outlives this. Owns scratch: one per thread.
class BlockDecoder {
 public:
  explicit BlockDecoder(const Plan& plan) : plan_(plan) {}

  /// [end - begin, head_dim] adjacent numbers, valid until the next call. Requires: `rows` lie within the block.
  [[nodiscard]] const float* Decode(const BlockRows& rows);

  [[nodiscard]] const Plan& plan() const noexcept { return plan_; }

 private:
  const Plan& plan_;
  AlignedBuffer scratch_;
  AlignedBuffer rows_;
};

/// What a caller wants of one layer: positions [first, first + count).
struct RowsRequest {
  std::size_t layer = 0;
  std::uint64_t first = 0;
  std::size_t count = 0;
  TensorView keys = {};    ///< [count, kv_heads, head_dim], any element type and strides; null data: not wanted
  TensorView values = {};  ///< the same
};

/// kOutOfRange for a layer or positions that a sequence of `length` tokens does not have, kInvalidArgument for tensors of
/// another shape or none at all. Messages begin with "copy rows".
[[nodiscard]] Result<void> CheckRowsRequest(const StoreSpec& spec, std::uint64_t length, const RowsRequest& request);

/// Rows [begin, begin + count) of a request.
[[nodiscard]] RowsRequest Piece(const RowsRequest& request, std::size_t begin, std::size_t count) noexcept;

/// Copies the rows that attention reads: raw ones and sinks as they were written, those of switched blocks decoded, all rounded
/// to the tensors' element type. kNotFinite, naming the row, if a number goes beyond it; the tensors are then garbage.
/// Requires: CheckRowsRequest.
[[nodiscard]] Result<void> ReadRows(BlockDecoder& decoder, const CachedSequence& sequence, const RowsRequest& request);

}  // namespace kvant::quantizers
