// Scalar twin of lloyd/accumulate.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/lloyd/accumulate.h"
#include "kernels/lloyd/layout.h"
#include "kernels/lloyd/reference/encode.h"

namespace kvant::kernels::reference {

/// One query: weights [tokens], acc [dim].
inline void LloydAccumulate(const LloydTable& table, std::size_t dim, std::size_t tokens, const std::uint8_t* block,
                            const float* weights, float* acc) {
  for (std::size_t first = 0; first < tokens; first += kWeightRun) {
    const std::size_t count = std::min(kWeightRun, tokens - first);
    std::vector<float> terms(count);
    for (std::size_t t = 0; t < count; ++t) {
      terms[t] = weights[first + t] * LloydScaleAt(table.bits, dim, tokens, block, first + t);
    }
    const float top = *std::ranges::max_element(terms);
    if (!(top >= 1e-30f)) continue;
    const auto limit = static_cast<float>(LloydWeightMax(table.bits));
    const float factor = limit / top, step = top / limit;
    for (std::size_t i = 0; i < dim; ++i) {
      std::int64_t sum = 0;
      for (std::size_t t = 0; t < count; ++t) {
        const auto weight = std::min(static_cast<std::int32_t>(std::nearbyint(terms[t] * factor)), LloydWeightMax(table.bits));
        const auto index = LloydIndexAt(LloydLayout::kValues, table.bits, dim, tokens, block, first + t, i);
        sum += static_cast<std::int64_t>(table.Centroid(index)) * weight;
      }
      acc[i] = acc[i] + static_cast<float>(static_cast<std::int32_t>(sum)) * step;
    }
  }
}

}  // namespace kvant::kernels::reference
