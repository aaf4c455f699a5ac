// Attention on affine codes, with the kernels of byte codes (kernels/bytes): what a group's step and zero do is taken out of
// the inner sums. With n = code - 2^(bits-1) and the group's centre c = zero + step * 2^(bits-1):
//
// Keys, per group of tokens: <q, x> = sum over dims of (q step) n + sum of q c. The products q * step are rounded to integers
// once
//   per group and query.
// Values, per group of dims: sum over tokens of (weight step) n + sum of weight c. The second sum is the same for all dims of
// the
//   group: accumulators hold it beside the first, in kAffineLanes partial sums (tokens modulo that), which are added up in the
//   end.
//
// Integer sums are exact, and the float sums go in kAffineLanes lanes on every target: results are the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/affine/layout.h"
#include "kernels/bytes/attend.h"

namespace kvant::kernels {

inline constexpr std::size_t kAffineLanes = 16;

/// Integers of queries and weights of codes of more than 4 bits: 128 * 16256 * 1024 numbers stay below 2^31.
inline constexpr int kAffineWordMax = 127 * 128;

/// Codes of up to so many bits meet queries of 8 bits with a sign and weights of 8 bits, others 16-bit ones: their rounding
/// then adds less than 5 % to the squared error of normal rows. With kAffineByteBits, groups of fewer than kAffineNarrow dims
/// have errors so small that their weights too get 16 bits.
inline constexpr std::uint32_t kAffineByteBits = 4;
inline constexpr std::size_t kAffineNarrow = 16;
constexpr bool AffineWordQueries(std::uint32_t bits) noexcept { return bits > kAffineByteBits; }
constexpr bool AffineWordWeights(std::uint32_t bits, std::size_t dims) noexcept {
  return bits > kAffineByteBits || (bits == kAffineByteBits && dims < kAffineNarrow);
}

/// A group whose products have no magnitude of at least this counts as zeros: their integers' factor would leave f32's range.
inline constexpr float kAffineSmallest = 1e-30f;

/// Floats of a query as ScoreAffine wants it: zeros behind the dims, up to whole lanes.
constexpr std::size_t AffineQueryFloats(std::size_t dim) noexcept {
  return (dim + kAffineLanes - 1) / kAffineLanes * kAffineLanes;
}

/// What a group's products q * step are rounded to, and <q, centres>. In memory only.
struct AffineGroupQuery {
  float step = 0.0f;
  float bias = 0.0f;
  std::int32_t total = 0;  ///< of the integers
};

/// Scratch of ScoreAffine for `n` queries: the byte kernels', steps and centres of a group, products; then rounded queries
/// (whole sixteens: tiles read that many).
constexpr std::size_t AffineScoreScratchBytes(std::size_t n, std::size_t dim) noexcept {
  const std::size_t floats = AffineQueryFloats(dim), rows = (n + 15) / 16 * 16;
  return ByteScoreScratchBytes(n, dim) + 3 * floats * sizeof(float) +
         rows * (floats * sizeof(std::int16_t) + sizeof(AffineGroupQuery));
}

/// `args.prepared`: queries of AffineQueryFloats floats each, adjacent. `args.dim`, `args.tokens`: as the shape has them.
void ScoreAffine(const AffineShape& shape, const ByteScoreArgs& args) noexcept;

/// Floats of an accumulator: a sum per dim, then kAffineLanes per group.
constexpr std::size_t AffineSumFloats(const AffineShape& shape) noexcept { return shape.dim + kAffineLanes * shape.groups(); }

/// Scratch of AccumulateAffine for `n` queries: the byte kernels', then centres of a group.
constexpr std::size_t AffineAccumulateScratchBytes(std::size_t n, std::size_t tokens) noexcept {
  return ByteAccumulateScratchBytes(n) + tokens * sizeof(float);
}

/// `args.acc`: AffineSumFloats of each query.
void AccumulateAffine(const AffineShape& shape, const ByteAccumulateArgs& args) noexcept;

}  // namespace kvant::kernels
