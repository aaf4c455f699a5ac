// Where the codes of sub-vectors lie in a block: as 8-bit Lloyd codes do (lloyd/layout.h), a sub-vector in place of a dim. Keys
// come in tiles of 16 tokens, whose 32-bit lanes hold the codes of 4 sub-vectors of one token; values in tiles of 4 tokens,
// whose lanes hold the codes of these 4 for one sub-vector. The ufloat16 scales of the tokens follow. These bytes are stored
// and shared: a change needs a new codec version.
//
// Looking a vector of 64 codes up once per number of a word gives four vectors of signed bytes that meet queries and weights as
// other byte codes do, but with the dims in another order, the *order of look-ups*:
//   keys: within 16 dims, number j of sub-vector i stands at 4 j + i (dim 4 i + j);
//   values: within 64 dims, number j of sub-vector i stands at 16 j + i (dim 4 i + j); dims are filled up to a multiple of 64.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/lloyd/layout.h"
#include "kernels/vector/codebook.h"

namespace kvant::kernels {

/// Rows have a multiple of so many dims: whole lanes of keys.
inline constexpr std::size_t kVectorDimMultiple = 16;
/// Tokens of a block are a multiple of this: a tile of keys.
inline constexpr std::size_t kVectorBlockMultiple = 16;

/// Bytes of a block's codes; its scales begin here.
constexpr std::size_t VectorCodesBytes(std::size_t dim, std::size_t tokens) noexcept { return dim / kVectorDims * tokens; }

constexpr std::size_t VectorBlockBytes(std::size_t dim, std::size_t tokens) noexcept {
  return VectorCodesBytes(dim, tokens) + tokens * sizeof(std::uint16_t);
}

/// The byte of one code.
constexpr std::size_t VectorCodeAt(LloydLayout layout, std::size_t dim, std::size_t token, std::size_t sub_vector) noexcept {
  return LloydFieldOf(layout, 8, dim / kVectorDims, token, sub_vector).byte;
}

/// Floats of an accumulator of values.
constexpr std::size_t VectorAccumulatorFloats(std::size_t dim) noexcept { return (dim + 63) / 64 * 64; }

/// Where a dim stands in a prepared query, and in an accumulator.
constexpr std::size_t VectorQueryPlace(std::size_t d) noexcept { return d / 16 * 16 + d % 4 * 4 + d % 16 / 4; }
constexpr std::size_t VectorSumPlace(std::size_t d) noexcept { return d / 64 * 64 + d % 4 * 16 + d % 64 / 4; }

}  // namespace kvant::kernels
