// Scalar twin of transpose.h.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <kvant/tensor.h>

#include "kernels/rotation/hadamard.h"

namespace kvant::kernels::reference {

inline float HalfToFloat(std::uint16_t half) {
  const int exponent = half >> 10 & 31;
  const int mantissa = half & 1023;
  const float sign = (half & 0x8000) != 0 ? -1.0f : 1.0f;
  if (exponent == 31) return mantissa == 0 ? sign * INFINITY : NAN;
  return sign * (exponent == 0 ? std::ldexp(static_cast<float>(mantissa), -24)
                               : std::ldexp(static_cast<float>(mantissa + 1024), exponent - 25));
}

/// Number i of row r of any element type.
inline float ElementAt(const RowsView& rows, std::size_t r, std::size_t i) {
  const auto* at = static_cast<const unsigned char*>(rows.data) + (r * rows.stride + i) * ElementBytes(rows.type);
  if (rows.type == ElementType::kF32) {
    float value;
    std::memcpy(&value, at, sizeof(value));
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, at, sizeof(bits));
  return rows.type == ElementType::kF16 ? HalfToFloat(bits) : std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

inline void LoadColumns(const RowsView& rows, std::size_t first, std::size_t count, float* columns) {
  for (std::size_t i = 0; i < rows.dim; ++i) {
    for (std::size_t r = 0; r < kLanes; ++r) columns[i * kLanes + r] = r < count ? ElementAt(rows, first + r, i) : 0.0f;
  }
}

inline void StoreColumns(const float* columns, std::size_t dim, std::size_t first, std::size_t count, float* rows,
                         std::size_t stride) {
  for (std::size_t r = 0; r < count; ++r) {
    for (std::size_t i = 0; i < dim; ++i) rows[r * stride + i] = columns[i * kLanes + first + r];
  }
}

}  // namespace kvant::kernels::reference
