// Scalar twin of lloyd_encode.h: one row at a time, the same float operations in the same order, so its bytes are the stored
// ones.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include <kvant/tensor.h>

#include "kernels/lloyd_encode.h"
#include "kernels/reference/hadamard.h"
#include "kernels/reference/transpose.h"
#include "kernels/ufloat16.h"

namespace kvant::kernels::reference {

/// Sums in the kernels' order: every fourth term, then (0 + 1) + (2 + 3).
class FourSums {
 public:
  void Add(std::size_t i, float v) { sums_[i % 4] += v; }
  [[nodiscard]] float Total() const { return (sums_[0] + sums_[1]) + (sums_[2] + sums_[3]); }

 private:
  float sums_[4] = {};
};

/// One row's codes ([dim]) and scale; false if it cannot be stored.
inline bool LloydEncodeRow(const LloydEncoding& how, std::vector<float> x, std::uint32_t* codes, std::uint16_t* stored) {
  const LloydTable& table = *how.table;
  const LloydEncodeConstants constants = LloydConstants(how);
  FourSums squares, dots, centroids;
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (how.mean != nullptr) x[i] -= how.mean[i];
    squares.Add(i, x[i] * x[i]);
  }
  const float square = squares.Total();
  const bool tiny = square < kLloydTinySquare;
  const float norm = std::sqrt(square);
  const float to_units = tiny ? 0.0f : constants.to_units / norm;
  reference::Hadamard(how.shape, how.rounds, how.signs, x.data());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float z = x[i] * to_units;
    std::uint32_t magnitude = 0;
    while (magnitude + 1 < table.half() && std::fabs(z) >= table.thresholds[magnitude]) ++magnitude;
    const auto c = static_cast<float>(table.magnitudes[magnitude]);
    dots.Add(i, std::fabs(z) * c);
    centroids.Add(i, c * c);
    codes[i] = z < 0.0f ? table.half() - 1 - magnitude : table.half() + magnitude;
  }
  float scale = norm;
  if (how.scale == LloydScale::kNormCorrected) scale = norm * constants.corrected / std::sqrt(centroids.Total());
  if (how.scale == LloydScale::kLeastSquares) scale = norm * dots.Total() / centroids.Total();
  if (how.scale == LloydScale::kUnbiased) scale = norm * constants.unbiased / dots.Total();
  if (tiny) scale = 0.0f;
  if (!(scale < kUfloat16Overflow)) return false;
  *stored = FloatToUfloat16(scale);
  return true;
}

inline std::size_t LloydEncode(const LloydEncoding& how, const RowsView& rows, std::uint8_t* block) {
  const std::size_t dim = how.shape.dim;
  const std::uint32_t bits = how.table->bits;
  std::memset(block, 0, LloydBlockBytes(bits, dim, rows.count));
  std::vector<std::uint32_t> codes(dim);
  for (std::size_t t = 0; t < rows.count; ++t) {
    std::vector<float> x(dim);
    for (std::size_t i = 0; i < dim; ++i) x[i] = ElementAt(rows, t, i);
    std::uint16_t scale = 0;
    if (!LloydEncodeRow(how, x, codes.data(), &scale)) return t;
    std::uint8_t* plane_codes = block;
    for (std::uint32_t p = 0; p < LloydPlaneCount(bits); ++p) {
      const LloydPlane plane = LloydPlaneAt(bits, p);
      for (std::size_t i = 0; i < dim; ++i) {
        const LloydField at = LloydFieldOf(how.layout, plane.bits, dim, t, i);
        const std::uint32_t field = (codes[i] >> plane.shift) & ((1u << plane.bits) - 1u);
        plane_codes[at.byte] = static_cast<std::uint8_t>(plane_codes[at.byte] | field << at.shift);
      }
      plane_codes += LloydPlaneBytes(plane.bits, dim, rows.count);
    }
    std::memcpy(block + LloydCodesBytes(bits, dim, rows.count) + t * sizeof(scale), &scale, sizeof(scale));
  }
  return rows.count;
}

/// The ufloat16 scale of a token of a block.
inline float LloydScaleAt(std::uint32_t bits, std::size_t dim, std::size_t tokens, const std::uint8_t* block,
                          std::size_t token) {
  std::uint16_t stored;
  std::memcpy(&stored, block + LloydCodesBytes(bits, dim, tokens) + token * sizeof(stored), sizeof(stored));
  return Ufloat16ToFloat(stored);
}

}  // namespace kvant::kernels::reference
