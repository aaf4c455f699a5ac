// Scalar twin of kernels/raw/rows.h, by the definition of the formats.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#include <kvant/tensor.h>

namespace kvant::kernels::reference {

/// The number that 16 bits stand for: `mantissa_bits` explicit bits under a 15 - mantissa_bits bit exponent.
inline double NumberOf(std::uint16_t bits, int mantissa_bits) {
  const int exponent_bits = 15 - mantissa_bits;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const int exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
  if (exponent == (1 << exponent_bits) - 1) {
    return mantissa != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * std::numeric_limits<double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
}

inline double ElementAt(const void* data, ElementType type, std::size_t i) {
  if (type == ElementType::kF32) {
    float f;
    std::memcpy(&f, static_cast<const char*>(data) + 4 * i, 4);
    return f;
  }
  std::uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(data) + 2 * i, 2);
  return NumberOf(bits, type == ElementType::kF16 ? 10 : 7);
}

/// Rounds to nearest even by trying: the two neighbours of |x| among the format's numbers, the nearer one, the even one on a
/// tie.
inline std::uint16_t BitsOf(float x, int mantissa_bits) {
  const auto sign = static_cast<std::uint16_t>(std::signbit(x) ? 0x8000 : 0);
  const auto infinity = static_cast<std::uint16_t>(((1 << (15 - mantissa_bits)) - 1) << mantissa_bits);
  const double magnitude = std::fabs(static_cast<double>(x));
  if (std::isnan(x)) return static_cast<std::uint16_t>(infinity | (1 << (mantissa_bits - 1)) | sign);
  std::uint16_t low = 0;
  for (int bit = 14; bit >= 0; --bit) {
    const auto trial = static_cast<std::uint16_t>(low | (1 << bit));
    if (trial < infinity && NumberOf(trial, mantissa_bits) <= magnitude) low = trial;
  }
  const auto high = static_cast<std::uint16_t>(low + 1);
  // The step above the largest finite number leads to where infinity stands: 2^(emax + 1).
  const double below = NumberOf(low, mantissa_bits);
  const double above = high == infinity
                           ? 2 * NumberOf(low, mantissa_bits) - NumberOf(static_cast<std::uint16_t>(low - 1), mantissa_bits)
                           : NumberOf(high, mantissa_bits);
  const double down = magnitude - below;
  const double up = above - magnitude;
  const bool take_high = std::isinf(magnitude) || up < down || (up == down && (low & 1) != 0);
  return static_cast<std::uint16_t>((take_high ? (std::isinf(magnitude) ? infinity : high) : low) | sign);
}

}  // namespace kvant::kernels::reference
