// Scalar twin of vector/encode.h: one row at a time, so its bytes are the stored ones.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/lloyd/reference/encode.h"
#include "kernels/vector/encode.h"

namespace kvant::kernels::reference {

/// The word nearest to four steps.
inline std::size_t NearestWord(const VectorCodebook& codebook, const std::int32_t* steps) {
  std::int64_t most = INT64_MIN;
  std::size_t nearest = 0;
  for (std::size_t w = 0; w < kVectorWords; ++w) {
    std::int64_t score = 0;
    for (std::size_t j = 0; j < kVectorDims; ++j) {
      const std::int64_t n = codebook.numbers[j][w];
      score += 2 * n * steps[j] - kVectorSteps * n * n;
    }
    if (score < most) continue;
    most = score;
    nearest = w;
  }
  return nearest;
}

/// One row's codes ([dim / 4]) and scale; false if it cannot be stored.
inline bool VectorEncodeRow(const VectorEncoding& how, std::vector<float> x, std::uint8_t* codes, std::uint16_t* stored) {
  const VectorConstants constants = VectorConstantsOf(how);
  FourSums squares;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (how.smooth != nullptr) x[i] /= how.smooth[i];
    squares.Add(i, x[i] * x[i]);
  }
  const float square = squares.Total(), norm = std::sqrt(square);
  if (!(norm < kUfloat16Overflow)) return false;
  const float to_steps = square < kLloydTinySquare ? 0.0f : constants.to_steps / norm;
  reference::Hadamard(how.map.shape, how.map.rounds, how.map.signs, x.data());
  std::int32_t dot = 0, norms = 0;
  for (std::size_t s = 0; s < x.size() / kVectorDims; ++s) {
    std::int32_t steps[kVectorDims];
    for (std::size_t j = 0; j < kVectorDims; ++j) {
      constexpr float kMost = kVectorStepsMax;
      steps[j] = static_cast<std::int32_t>(std::nearbyint(std::clamp(x[s * kVectorDims + j] * to_steps, -kMost, kMost)));
    }
    codes[s] = static_cast<std::uint8_t>(NearestWord(*how.codebook, steps));
    for (std::size_t j = 0; j < kVectorDims; ++j) {
      const std::int32_t n = how.codebook->numbers[j][codes[s]];
      dot += n * steps[j];
      norms += n * n;
    }
  }
  const auto fdot = static_cast<float>(dot), fnorms = static_cast<float>(norms);
  float scale = 0.0f;
  if (fdot > 0.0f) {
    scale = how.scale == LloydScale::kLeastSquares ? norm * fdot * constants.least_squares / fnorms
                                                   : norm * constants.unbiased / fdot;
  }
  return StoreScale(scale, square, stored);
}

inline std::size_t VectorEncode(const VectorEncoding& how, const RowsView& rows, std::uint8_t* block) {
  const std::size_t dim = rows.dim;
  for (std::size_t t = 0; t < rows.count; ++t) {
    std::vector<float> x(dim);
    for (std::size_t i = 0; i < dim; ++i) x[i] = ElementAt(rows, t, i);
    std::vector<std::uint8_t> codes(dim / kVectorDims);
    std::uint16_t scale = 0;
    if (!VectorEncodeRow(how, x, codes.data(), &scale)) return t;
    for (std::size_t s = 0; s < codes.size(); ++s) block[VectorCodeAt(how.layout, dim, t, s)] = codes[s];
    std::memcpy(block + VectorCodesBytes(dim, rows.count) + t * sizeof(scale), &scale, sizeof(scale));
  }
  return rows.count;
}

}  // namespace kvant::kernels::reference
