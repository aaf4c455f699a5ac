// Queries and weights rounded to the 16-bit integers that 8-bit codes are multiplied with.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvant::kernels {

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

}  // namespace kvant::kernels
