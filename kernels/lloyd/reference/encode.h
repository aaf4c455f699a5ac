// Scalar twin of lloyd/encode.h: one row at a time, the same float operations in the same order and the same integers, so its
// bytes are the stored ones.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include <kvant/tensor.h>

#include "kernels/lloyd/encode.h"
#include "kernels/lloyd/integer.h"
#include "kernels/rotation/reference/hadamard.h"
#include "kernels/rotation/reference/transpose.h"
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

/// The last step of both ways: the scale as it is stored; false if it cannot be.
inline bool StoreScale(float scale, float square, std::uint16_t* stored) {
  if (square < kLloydTinySquare) scale = 0.0f;
  if (!(scale < kUfloat16Overflow)) return false;
  *stored = FloatToUfloat16(scale);
  return true;
}

/// The squared norm: sums of every 16th number, then of every fourth of these, then (0 + 1) + (2 + 3).
inline float IntegerSquare(const std::vector<float>& x) {
  float sums[16] = {};
  for (std::size_t i = 0; i < x.size(); ++i) sums[i % 16] += x[i] * x[i];
  float quads[4];
  for (std::size_t j = 0; j < 4; ++j) quads[j] = (sums[j] + sums[j + 4]) + (sums[j + 8] + sums[j + 12]);
  return (quads[0] + quads[1]) + (quads[2] + quads[3]);
}

inline int Saturate16(int v) { return std::clamp(v, -32768, 32767); }

/// One stage of the transform of integers; `saturate` only in the last round.
inline void IntegerStage(std::vector<int>& z, std::size_t h, bool saturate) {
  for (std::size_t i = 0; i < z.size(); ++i) {
    if (i / h % 2 != 0) continue;
    const int a = z[i], b = z[i + h];
    z[i] = saturate ? Saturate16(a + b) : a + b;
    z[i + h] = saturate ? Saturate16(a - b) : a - b;
  }
}

/// A rotated row as grid steps (lloyd/integer.h). Requires: a finite norm that ufloat16 can hold.
inline std::vector<int> IntegerSteps(const LloydEncoding& how, const std::vector<float>& x, float square) {
  const std::size_t dim = x.size();
  const IntegerRotation rotation(how.table->bits, how.shape.dim, how.rounds);
  std::vector<int> z(dim);
  if (square < kLloydTinySquare) return z;
  const int power = PowerOfRatio(std::bit_cast<std::uint32_t>(square * rotation.inverse_limit2));
  const float whole = std::ldexp(1.0f, power);
  for (std::size_t i = 0; i < dim; ++i) {
    z[i] = static_cast<int>(std::nearbyint(static_cast<double>(how.signs[i] != 0 ? -x[i] : x[i]) / whole));
  }
  const auto first = static_cast<int>(std::nearbyint(rotation.first * whole / std::sqrt(square)));
  for (std::size_t h = 1; h < dim; h *= 2) IntegerStage(z, h, false);
  for (std::size_t round = 1; round < how.rounds; ++round) {
    const bool last = round + 1 == how.rounds;
    const int factor = round == 1 ? first : last ? rotation.last : rotation.middle;
    for (std::size_t i = 0; i < dim; ++i) {
      const int sign = how.signs[round * dim + i] != 0 ? -1 : 1;
      z[i] = (z[i] * (sign * factor) + 0x4000) >> 15;
    }
    if (!last) {
      for (std::size_t h = 1; h < dim; h *= 2) IntegerStage(z, h, false);
    } else {
      z[0] += 128;
      const std::size_t low = dim == 256 ? 16 : 8;
      for (std::size_t h = low; h < dim; h *= 2) IntegerStage(z, h, true);
      for (std::size_t h = 1; h < low; h *= 2) IntegerStage(z, h, true);
    }
  }
  for (auto& v : z) v >>= 8;
  return z;
}

inline bool LloydEncodeRowInIntegers(const LloydEncoding& how, const std::vector<float>& x, std::uint32_t* codes,
                                     std::uint16_t* stored) {
  const LloydTable& table = *how.table;
  const LloydGrid grid = MakeLloydGrid(table);
  const float square = IntegerSquare(x);
  const float norm = std::sqrt(square);
  if (!(norm < 2.0f * kUfloat16Overflow)) return false;
  const std::vector<int> steps = IntegerSteps(how, x, square);
  int zz = 0, zc = 0, cc = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const int z = std::min(std::abs(steps[i]), 127);
    const std::uint32_t level = grid[static_cast<std::size_t>(z)];
    const int c = table.magnitudes[level];
    zz += z * z, zc += z * c, cc += c * c;
    codes[i] = steps[i] < 0 ? table.half() - 1 - level : table.half() + level;
  }
  const float unit = norm * LloydConstants(how).corrected;
  const float length = std::sqrt(static_cast<float>(zz)) * IntegerRotation(table.bits, how.shape.dim, how.rounds).rounding;
  const auto fzc = static_cast<float>(zc), fcc = static_cast<float>(cc);
  float scale = norm;
  if (how.scale == LloydScale::kNormCorrected) scale = unit / std::sqrt(fcc);
  if (how.scale == LloydScale::kLeastSquares) scale = unit * (fzc / length) / fcc;
  if (how.scale == LloydScale::kUnbiased) scale = unit * (length / fzc);
  return StoreScale(scale, square, stored);
}

inline bool LloydEncodeRowInFloats(const LloydEncoding& how, std::vector<float> x, std::uint32_t* codes,
                                   std::uint16_t* stored) {
  const LloydTable& table = *how.table;
  const LloydEncodeConstants constants = LloydConstants(how);
  FourSums squares, dots, centroids;
  for (std::size_t i = 0; i < x.size(); ++i) squares.Add(i, x[i] * x[i]);
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
  return StoreScale(scale, square, stored);
}

/// One row's codes ([dim]) and scale; false if it cannot be stored.
inline bool LloydEncodeRow(const LloydEncoding& how, std::vector<float> x, std::uint32_t* codes, std::uint16_t* stored) {
  for (std::size_t i = 0; how.mean != nullptr && i < x.size(); ++i) x[i] -= how.mean[i];
  return RotatesInIntegers(*how.table, how.shape, how.rounds) ? LloydEncodeRowInIntegers(how, x, codes, stored)
                                                              : LloydEncodeRowInFloats(how, x, codes, stored);
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
