// The scalar twin of kernels/gauge: plain loops, as the definitions read.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/gauge/gauge.h"

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

/// <query, mean>: sixteen running sums, then halves added until one is left.
inline float DotWithMean(const BlockGauge& gauge, std::size_t dim, const float* query) noexcept {
  float sums[16] = {};
  for (std::size_t d = 0; d < dim; ++d) sums[d % 16] += query[d] * HalfToFloat(gauge.mean[d]);
  for (std::size_t half = 8; half > 0; half /= 2) {
    for (std::size_t k = 0; k < half; ++k) sums[k] += sums[k + half];
  }
  return sums[0];
}

}  // namespace kvant::kernels::reference
