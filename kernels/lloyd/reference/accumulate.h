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

/// One query: weights [tokens], acc [dim]; level(token, i): the integer of a token's dim i; scales are those of a block of
/// Lloyd codes of `bits` bits.
template <class Level>
void AccumulateLevels(std::uint32_t bits, std::size_t dim, std::size_t tokens, const std::uint8_t* block, const float* weights,
                      float* acc, const Level& level) {
  for (std::size_t first = 0; first < tokens; first += kWeightRun) {
    const std::size_t count = std::min(kWeightRun, tokens - first);
    std::vector<float> terms(count);
    for (std::size_t t = 0; t < count; ++t) {
      terms[t] = weights[first + t] * LloydScaleAt(bits, dim, tokens, block, first + t);
    }
    const float top = *std::ranges::max_element(terms);
    if (!(top >= 1e-30f)) continue;
    const auto limit = static_cast<float>(LloydWeightMax(bits));
    const float factor = limit / top, step = top / limit;
    for (std::size_t i = 0; i < dim; ++i) {
      std::int64_t sum = 0;
      for (std::size_t t = 0; t < count; ++t) {
        const auto weight = std::min(static_cast<std::int32_t>(std::nearbyint(terms[t] * factor)), LloydWeightMax(bits));
        sum += static_cast<std::int64_t>(level(first + t, i)) * weight;
      }
      acc[i] = acc[i] + static_cast<float>(static_cast<std::int32_t>(sum)) * step;
    }
  }
}

/// One query of a block of Lloyd codes.
inline void LloydAccumulate(const LloydTable& table, std::size_t dim, std::size_t tokens, const std::uint8_t* block,
                            const float* weights, float* acc) {
  AccumulateLevels(table.bits, dim, tokens, block, weights, acc, [&](std::size_t token, std::size_t i) {
    return table.Centroid(LloydIndexAt(LloydLayout::kValues, table.bits, dim, tokens, block, token, i));
  });
}

}  // namespace kvant::kernels::reference
