// Scalar twin of int8/int8.h, from the layout's definition. Same integers, same order of float
// operations: same bits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/int8/int8.h"
#include "kernels/ufloat16.h"

namespace kvant::kernels::reference {

inline int Int8Code(float x, float inverse_scale) {
  return static_cast<int>(std::nearbyint(std::clamp(x * inverse_scale, -127.0f, 127.0f)));
}

inline std::size_t Int8KeyOffset(std::size_t t, std::size_t d, std::size_t dim) {
  return t / 16 * (16 * dim) + d / 4 * 64 + t % 16 * 4 + d % 4;
}

inline std::size_t Int8ValueOffset(std::size_t t, std::size_t d, std::size_t dim) { return t / 4 * (4 * dim) + 4 * d + t % 4; }

/// The integers of a row in plain order.
inline std::vector<int> Int16Integers(const float* x, std::size_t n, float* step) {
  float max = 0;
  for (std::size_t i = 0; i < n; ++i) max = std::max(max, std::fabs(x[i]));
  *step = 0;
  std::vector<int> integers(n);
  if (!(max >= kInt16Smallest)) return integers;
  *step = max / static_cast<float>(kInt16Limit);
  const float inverse = static_cast<float>(kInt16Limit) / max;
  for (std::size_t i = 0; i < n; ++i) {
    integers[i] = static_cast<int>(
        std::nearbyint(std::clamp(x[i] * inverse, -static_cast<float>(kInt16Limit), static_cast<float>(kInt16Limit))));
  }
  return integers;
}

inline int CodeAt(const std::byte* codes, std::size_t offset) { return std::to_integer<int>(codes[offset]) - 128; }

inline float Int8Logit(const float* query, const std::byte* codes, const std::uint16_t* scales, std::size_t t,
                       std::size_t dim) {
  float step;
  const auto integers = Int16Integers(query, dim, &step);
  std::int64_t sum = 0;
  for (std::size_t d = 0; d < dim; ++d) sum += std::int64_t{integers[d]} * CodeAt(codes, Int8KeyOffset(t, d, dim));
  return static_cast<float>(static_cast<std::int32_t>(sum)) * step * Ufloat16ToFloat(scales[t]);
}

/// What one block adds to the accumulator of dim d; `products` are weights times scales.
inline float Int8Sum(const float* products, const std::byte* codes, std::size_t tokens, std::size_t d, std::size_t dim) {
  float step;
  const auto integers = Int16Integers(products, tokens, &step);
  std::int64_t sum = 0;
  for (std::size_t t = 0; t < tokens; ++t) sum += std::int64_t{integers[t]} * CodeAt(codes, Int8ValueOffset(t, d, dim));
  return static_cast<float>(static_cast<std::int32_t>(sum)) * step;
}

}  // namespace kvant::kernels::reference
