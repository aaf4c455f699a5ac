// Rows in 8-bit codes: where a code lies in a block, how rows become codes, and attention straight from codes.
//
// A code c in [-127, 127] is stored as the byte c + 128. Keys: tiles of 16 tokens; byte 64 g + 4 t + j of a tile is token t,
// dim 4 g + j. Values: quads of 4 tokens; byte 4 d + j of a quad is dim d, token j. So a 32-bit lane holds four codes of one
// token (or of one dim): masking gives the 1st and 3rd as 16-bit numbers, shifting the 2nd and 4th, and one instruction
// multiplies a pair of them with a pair of 16-bit query numbers (or weights) and adds. Sums are exact integers, hence the same
// on every target. Behind the codes of a block lie the ufloat16 scales of its tokens, adjacent.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/bytes/attend.h"

namespace kvant::kernels {

inline constexpr std::size_t kInt8KeyTile = 16;
inline constexpr std::size_t kInt8ValueTile = 4;

/// Codes of 16 rows of `dim` numbers (adjacent) into a key tile of 16 * dim bytes: round(row[t] * inverse_scales[t]), clamped
/// to +-127. Requires: dim is a multiple of 8 (also below).
void PackInt8Keys(const float* rows, const float* inverse_scales, std::size_t dim, std::byte* tile) noexcept;

/// Codes of 4 rows into a value quad of 4 * dim bytes.
void PackInt8Values(const float* rows, const float* inverse_scales, std::size_t dim, std::byte* quad) noexcept;

/// Largest magnitude of a 16-bit query number or weight: 127 * 16256 * 1024 numbers stay below 2^31.
inline constexpr int kInt16Limit = 127 * 128;

/// Rows without a number of at least this magnitude count as zeros: their integers' factor would leave f32's range.
inline constexpr float kInt16Smallest = 1e-30f;

/// A row of numbers rounded to 16 bits: x[i] ~ step * integer i. The integers lie elsewhere, in fours ordered 0, 2, 1, 3.
struct Int16Row {
  float step = 0.0f;
  std::int32_t total = 0;  ///< of the integers: 128 times it is what the codes' + 128 adds
};

/// Rounds `n` finite numbers (a multiple of 4) to integers up to kInt16Limit. All zeros give step 0.
Int16Row RoundToInt16(const float* x, std::size_t n, std::int16_t* integers) noexcept;

/// What ScoreInt8 wants of `n` queries: n Int16Rows, then their integers, [n, dim].
constexpr std::size_t Int8PreparedBytes(std::size_t n, std::size_t dim) noexcept {
  return n * (sizeof(Int16Row) + dim * sizeof(std::int16_t));
}

/// `args.prepared` is what Int8PreparedBytes describes. logit = (float(sum over dims of a query's integer * code of the token)
/// * the query's step) * the token's scale.
void ScoreInt8(const ByteScoreArgs& args) noexcept;

/// The tokens of a block share the step of their weights, which are rounded to 16 bits too. `args.scratch`:
/// ByteAccumulateScratchBytes(queries, tokens).
void AccumulateInt8(const ByteAccumulateArgs& args) noexcept;

}  // namespace kvant::kernels
