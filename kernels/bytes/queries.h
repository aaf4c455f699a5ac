// Queries as byte codes meet them: rounded to integers, 16 queries to a batch, lanes = queries.
//
// Batch: a QueryHead, then 16 rows, one per query, of words for each group of 4 dims: four signed bytes, |q| <= kByteQueryMax,
// or two words of signed 16-bit pairs (dims 0, 2), then (dims 1, 3). Rows beyond the last query hold anything. In memory only,
// never stored.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvant::kernels {

inline constexpr std::size_t kQueryBatch = 16;

/// logit = (float(integer sum) * token's scale) * scale + bias.
struct QueryHead {
  float scale[kQueryBatch];
  float bias[kQueryBatch];           ///< <query, mean>; 0 without one
  std::int32_t totals[kQueryBatch];  ///< of the integer query: undoes offsets of codes
};

/// `row_words`: words of one query's row, dim / 4, twice as many of 16-bit pairs.
constexpr std::size_t QueryBatchBytes(std::size_t row_words) noexcept {
  return sizeof(QueryHead) + row_words * kQueryBatch * sizeof(std::uint32_t);
}

}  // namespace kvant::kernels
