// f16 numbers one at a time, for the zeros of affine codes. (Rows of them: kernels/raw/rows.h.)
#pragma once

#include <bit>
#include <cstdint>

namespace kvant::kernels {

/// The largest number that FloatToF16Down takes.
inline constexpr float kF16Max = 65504.0f;

/// Exact; infinities and NaN stay what they are.
constexpr float F16ToFloat(std::uint16_t half) noexcept {
  const std::uint32_t sign = (half & 0x8000u) << 16, magnitude = half & 0x7FFFu;
  std::uint32_t bits = magnitude << 13;
  if (magnitude >= 0x7C00u) {
    bits |= 0x7F800000u;
  } else if (magnitude >= 0x0400u) {
    bits += (127u - 15u) << 23;
  } else {
    // 0.5 + m * 2^-24 has m in its low bits, so the subtraction is exact.
    bits = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude | 0x3F000000u) - 0.5f);
  }
  return std::bit_cast<float>(sign | bits);
}

/// The largest f16 number that does not exceed `value`. Requires: |value| <= kF16Max.
constexpr std::uint16_t FloatToF16Down(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value + 0.0f);  // -0 becomes 0
  const bool negative = (bits >> 31) != 0;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  std::uint32_t half, lost;
  if (magnitude >= (127u - 14u) << 23) {
    half = (magnitude >> 13) - ((127u - 15u) << 10);
    lost = magnitude & 0x1FFFu;
  } else {
    const float units = std::bit_cast<float>(magnitude) * 0x1p24f;  // of the smallest f16 number; exact
    half = static_cast<std::uint32_t>(units);
    lost = static_cast<float>(half) != units ? 1 : 0;
  }
  if (negative && lost != 0) ++half;
  if (negative && half != 0) half |= 0x8000u;
  return static_cast<std::uint16_t>(half);
}

}  // namespace kvant::kernels
