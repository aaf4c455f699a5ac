// Scalar twin of lloyd/planes.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/lloyd/accumulate.h"
#include "kernels/lloyd/planes.h"
#include "kernels/lloyd/reference/query.h"
#include "kernels/ufloat16.h"

namespace kvant::kernels::reference {

/// The level of a code: its index in the top bits of a byte.
inline int PlaneLevel(const LloydTable& levels, LloydLayout layout, std::size_t dim, const LloydPlanes& planes,
                      std::size_t token, std::size_t d) {
  return levels.Centroid(LloydTopBitsAt(layout, dim, planes, token, d) << (8 - planes.count));
}

inline float PlaneScale(const std::byte* scales, std::size_t token) {
  std::uint16_t stored;
  std::memcpy(&stored, scales + token * sizeof(stored), sizeof(stored));
  return Ufloat16ToFloat(stored);
}

/// The logit of one query and one token of a block of keys.
inline float LloydPlanesLogit(const LloydTable& levels, std::size_t dim, const LloydPlanes& planes, const std::byte* scales,
                              std::size_t token, const LloydQuery& query) {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < dim; ++i) {
    sum += static_cast<std::int64_t>(PlaneLevel(levels, LloydLayout::kKeys, dim, planes, token, i)) * query.numbers[i];
  }
  return static_cast<float>(static_cast<std::int32_t>(sum)) * PlaneScale(scales, token) * query.scale + query.bias;
}

/// One query: weights [tokens], acc [dim].
inline void LloydPlanesAccumulate(const LloydTable& levels, std::size_t dim, std::size_t tokens, const LloydPlanes& planes,
                                  const std::byte* scales, const float* weights, float* acc) {
  for (std::size_t first = 0; first < tokens; first += kWeightRun) {
    const std::size_t count = std::min(kWeightRun, tokens - first);
    std::vector<float> terms(count);
    for (std::size_t t = 0; t < count; ++t) terms[t] = weights[first + t] * PlaneScale(scales, first + t);
    const float top = *std::ranges::max_element(terms);
    if (!(top >= 1e-30f)) continue;
    const auto limit = static_cast<float>(LloydWeightMax(8));
    const float factor = limit / top, step = top / limit;
    for (std::size_t i = 0; i < dim; ++i) {
      std::int64_t sum = 0;
      for (std::size_t t = 0; t < count; ++t) {
        const auto weight = std::min(static_cast<std::int32_t>(std::nearbyint(terms[t] * factor)), LloydWeightMax(8));
        sum += static_cast<std::int64_t>(PlaneLevel(levels, LloydLayout::kValues, dim, planes, first + t, i)) * weight;
      }
      acc[i] = acc[i] + static_cast<float>(static_cast<std::int32_t>(sum)) * step;
    }
  }
}

}  // namespace kvant::kernels::reference
