// Scalar twin of kernels/affine, from the layout's definition. Same integers, same order of float operations: same bits.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/affine/attend.h"
#include "kernels/affine/float16.h"
#include "kernels/affine/layout.h"
#include "kernels/ufloat16.h"

namespace kvant::kernels::reference {

struct AffineGroup {
  float step = 0.0f;
  float zero = 0.0f;
};

/// Of one line of group `g`.
inline AffineGroup AffineGroupAt(const AffineShape& shape, const std::byte* block, std::size_t g, std::size_t line) {
  std::uint16_t step, zero;
  std::memcpy(&step, block + shape.steps_at(g) + 2 * line, 2);
  std::memcpy(&zero, block + shape.zeros_at(g) + 2 * line, 2);
  return {Ufloat16ToFloat(step), F16ToFloat(zero)};
}

/// The code less the middle of its range.
inline int AffineNumber(const AffineShape& shape, const std::byte* block, std::size_t t, std::size_t d) {
  const auto code = AffineCodeAt(shape, reinterpret_cast<const std::uint8_t*>(block), t, d);
  return static_cast<int>(code) - (1 << (shape.bits - 1));
}

inline float AffineHalf(const AffineShape& shape) { return static_cast<float>(1 << (shape.bits - 1)); }

/// `x` as integers up to `limit`.
inline std::vector<int> AffineIntegers(const std::vector<float>& x, int limit, float* step) {
  float top = 0.0f;
  for (const float v : x) top = std::max(top, std::fabs(v));
  *step = 0.0f;
  std::vector<int> integers(x.size(), 0);
  if (!(top >= kAffineSmallest)) return integers;
  *step = top / static_cast<float>(limit);
  const float factor = static_cast<float>(limit) / top;
  for (std::size_t i = 0; i < x.size(); ++i) integers[i] = static_cast<int>(std::nearbyint(x[i] * factor));
  return integers;
}

/// `query`: shape.dim floats.
inline float AffineLogit(const AffineShape& shape, const std::byte* block, const float* query, std::size_t token) {
  const std::size_t g = token / shape.group;
  std::vector<float> products(shape.dim);
  float lanes[kAffineLanes] = {};
  for (std::size_t d = 0; d < shape.dim; ++d) {
    const AffineGroup group = AffineGroupAt(shape, block, g, d);
    products[d] = query[d] * group.step;
    lanes[d % kAffineLanes] += query[d] * (group.zero + group.step * AffineHalf(shape));
  }
  for (std::size_t width = kAffineLanes / 2; width > 0; width /= 2) {
    for (std::size_t i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  float step;
  const auto integers = AffineIntegers(products, AffineWordQueries(shape.bits) ? kAffineWordMax : kByteQueryMax, &step);
  std::int64_t sum = 0;
  for (std::size_t d = 0; d < shape.dim; ++d) sum += std::int64_t{integers[d]} * AffineNumber(shape, block, token, d);
  return static_cast<float>(static_cast<std::int32_t>(sum)) * step + lanes[0];
}

/// What a block adds to an accumulator: AffineSumFloats floats, onto `acc`.
inline void AffineAccumulate(const AffineShape& shape, const std::byte* block, const float* weights, float* acc) {
  for (std::size_t g = 0; g < shape.groups(); ++g) {
    float* lanes = acc + shape.dim + g * kAffineLanes;
    for (std::size_t t = 0; t < shape.tokens; ++t) {
      const AffineGroup group = AffineGroupAt(shape, block, g, t);
      lanes[t % kAffineLanes] += weights[t] * (group.zero + group.step * AffineHalf(shape));
    }
    for (std::size_t first = 0; first < shape.tokens; first += kWeightRun) {
      std::vector<float> products(std::min(kWeightRun, shape.tokens - first));
      for (std::size_t t = 0; t < products.size(); ++t)
        products[t] = weights[first + t] * AffineGroupAt(shape, block, g, first + t).step;
      const bool wide = AffineWordWeights(shape.bits, std::min(shape.group, shape.dim - g * shape.group));
      float step;
      const auto integers = AffineIntegers(products, wide ? kAffineWordMax : kByteWeightMax, &step);
      for (std::size_t d = g * shape.group; d < std::min(shape.dim, (g + 1) * shape.group); ++d) {
        std::int64_t sum = 0;
        for (std::size_t t = 0; t < products.size(); ++t)
          sum += std::int64_t{integers[t]} * AffineNumber(shape, block, first + t, d);
        acc[d] += static_cast<float>(static_cast<std::int32_t>(sum)) * step;
      }
    }
  }
}

}  // namespace kvant::kernels::reference
