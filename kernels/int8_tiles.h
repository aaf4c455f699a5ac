// 8-bit codes in the order vector units multiply them in, and integer arithmetic on them.
//
// A code c in [-127, 127] is stored as the byte c + 128. Keys: tiles of 16 tokens; byte 64 g + 4 t + j of a tile is token t,
// dim 4 g + j. Values: quads of 4 tokens; byte 4 d + j of a quad is dim d, token j. So a 32-bit lane holds four codes of one
// token (or of one dim): masking gives the 1st and 3rd as 16-bit numbers, shifting the 2nd and 4th, and one instruction
// multiplies a pair of them with a pair of 16-bit query numbers (or weights) and adds. Sums are exact integers, hence the same
// on every target.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvant::kernels {

inline constexpr std::size_t kInt8KeyTile = 16;
inline constexpr std::size_t kInt8ValueTile = 4;

/// Largest magnitude of a 16-bit query number or weight: 127 * 16256 * 1024 numbers stay below 2^31.
inline constexpr int kInt16Limit = 127 * 128;

/// Rows without a number of at least this magnitude count as zeros: their integers' factor would leave f32's range.
inline constexpr float kInt16Smallest = 1e-30f;

/// A row of numbers rounded to 16 bits: x[i] ~ step * integer i. The integers lie elsewhere, in fours ordered 0, 2, 1, 3.
struct Int16Row {
  float step = 0.0f;
  std::int32_t offset = 0;  ///< -128 times the integers' sum: what the codes' + 128 adds, taken back
};

/// Rounds `n` finite numbers (a multiple of 4) to integers up to kInt16Limit. All zeros give step 0.
Int16Row RoundToInt16(const float* x, std::size_t n, std::int16_t* integers) noexcept;

/// Rounds `n` rows of weights >= 0 ([n, stride]), each times what the ufloat16 scales [tokens] stand for, as RoundToInt16 does.
/// `integers` is [n, tokens], `numbers` scratch of [tokens]. Requires: tokens is a multiple of 16.
void RoundWeights(const float* weights, std::size_t stride, std::size_t n, const std::uint16_t* scales, std::size_t tokens,
                  float* numbers, Int16Row* rows, std::int16_t* integers) noexcept;

/// Codes of 16 rows of `dim` numbers (adjacent) into a key tile of 16 * dim bytes: round(row[t] * inverse_scales[t]), clamped
/// to +-127. Requires: dim is a multiple of 8 (here and below).
void PackInt8Keys(const float* rows, const float* inverse_scales, std::size_t dim, std::byte* tile) noexcept;

/// Codes of 4 rows into a value quad of 4 * dim bytes.
void PackInt8Values(const float* rows, const float* inverse_scales, std::size_t dim, std::byte* quad) noexcept;

/// logits[i * stride + t] = (float(sum over d of integer d of query i * code d of token t) * step i) * scale t.
/// `integers` is [n, dim], `codes` tokens / 16 tiles, `scales` [tokens] ufloat16. May prefetch [next, next + next_bytes).
void ScoreInt8(const Int16Row* queries, const std::int16_t* integers, std::size_t n, const std::byte* codes,
               const std::uint16_t* scales, std::size_t tokens, std::size_t dim, float* logits, std::size_t stride,
               const std::byte* next, std::size_t next_bytes) noexcept;

/// acc[i * acc_stride + d] += float(sum over t of integer t of weight row i * code d of token t) * step i.
/// `integers` is [n, tokens], `codes` tokens / 4 quads.
void AccumulateInt8(const Int16Row* weights, const std::int16_t* integers, std::size_t n, const std::byte* codes,
                    std::size_t tokens, std::size_t dim, float* acc, std::size_t acc_stride, const std::byte* next,
                    std::size_t next_bytes) noexcept;

}  // namespace kvant::kernels
