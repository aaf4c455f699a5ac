// The scalar twin of kernels/gauge: plain loops, as the definitions read.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/gauge/gauge.h"
#include "kernels/reference/sixteen_sums.h"

namespace kvant::kernels::reference {

inline float HalfToFloat(std::uint16_t bits) noexcept {
  const int exponent = bits >> 10 & 31;
  const float mantissa = static_cast<float>(bits & 1023);
  const float magnitude = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024.0f + mantissa, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

/// 2^e * (1 + m / 8) for the byte 0x80 + 8 * e + m.
inline float Gain(std::uint8_t byte) noexcept { return std::ldexp(1.0f + static_cast<float>(byte % 8) / 8.0f, byte / 8 - 16); }

inline float Gain(const BlockGauge& gauge, std::size_t d) noexcept {
  return gauge.gains == nullptr ? 1.0f : Gain(gauge.gains[d]);
}

inline float MeanOfColumn(const float* rows, std::size_t n, std::size_t dim, std::size_t d) noexcept {
  float sum = 0;
  for (std::size_t t = 0; t < n; ++t) sum += rows[t * dim + d];
  return sum / static_cast<float>(n);
}

inline float SpreadOfColumn(const float* rows, std::size_t n, std::size_t dim, std::size_t d, std::uint16_t mean) noexcept {
  float sum = 0;
  for (std::size_t t = 0; t < n; ++t) {
    const float x = rows[t * dim + d] - HalfToFloat(mean);
    sum += x * x;
  }
  return sum / static_cast<float>(n);
}

inline float DotWithMean(const BlockGauge& gauge, std::size_t dim, const float* query) noexcept {
  return SixteenSums(dim, [&](std::size_t d) { return query[d] * HalfToFloat(gauge.mean[d]); });
}

}  // namespace kvant::kernels::reference
