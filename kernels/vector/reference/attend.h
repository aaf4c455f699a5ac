// Scalar twin of vector/attend.h, in the order of dims.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/lloyd/reference/query.h"
#include "kernels/ufloat16.h"
#include "kernels/vector/codebook.h"
#include "kernels/vector/layout.h"

namespace kvant::kernels::reference {

/// Number d of a token.
inline int VectorNumberAt(const VectorCodebook& codebook, LloydLayout layout, std::size_t dim, const std::uint8_t* block,
                          std::size_t token, std::size_t d) {
  return codebook.numbers[d % kVectorDims][block[VectorCodeAt(layout, dim, token, d / kVectorDims)]];
}

inline float VectorScaleAt(std::size_t dim, std::size_t tokens, const std::uint8_t* block, std::size_t token) {
  std::uint16_t bits;
  std::memcpy(&bits, block + VectorCodesBytes(dim, tokens) + token * sizeof(bits), sizeof(bits));
  return Ufloat16ToFloat(bits);
}

/// `query` as LloydPrepareQueries makes it for Lloyd codes of 2 bits.
inline float VectorLogit(const VectorCodebook& codebook, std::size_t dim, std::size_t tokens, const std::uint8_t* block,
                         std::size_t token, const LloydQuery& query) {
  std::int32_t sum = 0;
  for (std::size_t d = 0; d < dim; ++d) {
    sum += VectorNumberAt(codebook, LloydLayout::kKeys, dim, block, token, d) * query.numbers[d];
  }
  const float scale = query.scale * (FindLloydTable(2)->unit / codebook.unit);
  return static_cast<float>(sum) * VectorScaleAt(dim, tokens, block, token) * scale + 0.0f;
}

/// One query: weights [tokens], acc [dim].
inline void VectorAccumulate(const VectorCodebook& codebook, std::size_t dim, std::size_t tokens, const std::uint8_t* block,
                             const float* weights, float* acc) {
  for (std::size_t first = 0; first < tokens; first += kWeightRun) {
    const std::size_t count = std::min(kWeightRun, tokens - first);
    std::vector<float> terms(count);
    for (std::size_t t = 0; t < count; ++t) terms[t] = weights[first + t] * VectorScaleAt(dim, tokens, block, first + t);
    const float top = *std::ranges::max_element(terms);
    if (!(top >= 1e-30f)) continue;
    const float factor = kByteWeightMax / top, step = top / kByteWeightMax;
    for (std::size_t d = 0; d < dim; ++d) {
      std::int32_t sum = 0;
      for (std::size_t t = 0; t < count; ++t) {
        sum += VectorNumberAt(codebook, LloydLayout::kValues, dim, block, first + t, d) *
               static_cast<std::int32_t>(std::nearbyint(terms[t] * factor));
      }
      acc[d] = acc[d] + static_cast<float>(sum) * step;
    }
  }
}

}  // namespace kvant::kernels::reference
