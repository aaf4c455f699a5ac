// "ufloat16": the 16-bit unsigned numbers that stored scales are: 6 exponent bits (bias 31), 10 mantissa bits, no sign, no
// infinity. The precision of f16 with a range of [2^-40, 2^33), so the norm of a row never overflows where f16 would.
#pragma once

#include <bit>
#include <cstdint>

namespace kvant::kernels {

/// The largest number a ufloat16 holds: 2^32 * (2 - 2^-10).
inline constexpr float kUfloat16Max = 8585740288.0f;
/// Numbers from here on round beyond kUfloat16Max and cannot be stored.
inline constexpr float kUfloat16Overflow = 8587837440.0f;

inline constexpr float kTwoTo96 = 0x1p96f;
inline constexpr float kTwoToMinus96 = 0x1p-96f;

/// Exact.
constexpr float Ufloat16ToFloat(std::uint16_t bits) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 13) * kTwoTo96;
}

/// Rounds to nearest, ties to even. Requires: 0 <= value < kUfloat16Overflow. Below 2^-30 precision fades, below 2^-41 it is 0.
constexpr std::uint16_t FloatToUfloat16(float value) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(value * kTwoToMinus96);
  return static_cast<std::uint16_t>((bits + 0xFFFu + ((bits >> 13) & 1u)) >> 13);
}

}  // namespace kvant::kernels
