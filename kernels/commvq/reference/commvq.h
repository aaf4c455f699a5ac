// Scalar twin of commvq/commvq.h: one row at a time, the same float operations in the same order.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/commvq/commvq.h"
#include "kernels/ufloat16.h"

namespace kvant::kernels::reference {

struct CommVqRow {
  std::vector<CommVqCode> codes;  ///< one a stage
  std::uint16_t scale = 0;
};

/// The code that leaves the least of a planar row.
inline CommVqCode CommVqNearest(const float* words, std::size_t pairs, const std::vector<float>& x) {
  float along[kCommVqWords], across[kCommVqWords], squares[kCommVqWords];
  const auto real = [&](std::size_t w, std::size_t p) { return words[w * 2 * pairs + p]; };
  const auto imaginary = [&](std::size_t w, std::size_t p) { return words[w * 2 * pairs + pairs + p]; };
  for (std::size_t w = 0; w < kCommVqWords; ++w) {
    along[w] = across[w] = squares[w] = 0.0F;
    for (std::size_t i = 0; i < 2 * pairs; ++i) squares[w] += words[w * 2 * pairs + i] * words[w * 2 * pairs + i];
    for (std::size_t p = 0; p < pairs; ++p) {
      along[w] += x[p] * real(w, p) + x[pairs + p] * imaginary(w, p);
      across[w] += x[pairs + p] * real(w, p) - x[p] * imaginary(w, p);
    }
  }
  CommVqCode best{0, 0};
  float least = 3e38F;
  for (std::uint32_t a = 0; a < kCommVqWords; ++a) {
    for (std::uint32_t b = 0; b < kCommVqWords; ++b) {
      float product = 0.0F;
      for (std::size_t p = 0; p < pairs; ++p) product += imaginary(a, p) * real(b, p) - real(a, p) * imaginary(b, p);
      const float cost = ((squares[a] - 2 * along[a]) + (squares[b] - 2 * across[b])) + 2 * product;
      if (cost < least) {
        least = cost;
        best = {a, b};
      }
    }
  }
  return best;
}

inline CommVqRow CommVqEncodeRow(const CommVqCodebook& codebook, const std::uint16_t* place, const float* row) {
  const std::size_t dim = codebook.dim(), pairs = codebook.pairs;
  float sums[4] = {};
  for (std::size_t i = 0; i < dim; ++i) sums[i % 4] += row[i] * row[i];
  const float square = (sums[0] + sums[1]) + (sums[2] + sums[3]), norm = std::sqrt(square);
  const bool tiny = square < 0x1p-82F;
  std::vector<float> unit(dim);
  for (std::size_t i = 0; i < dim; ++i) unit[i] = tiny ? 0.0F : row[place[i]] / norm;
  std::vector<float> left = unit;
  CommVqRow coded;
  for (std::size_t r = 0; r < codebook.stages; ++r) {
    const CommVqCode code = CommVqNearest(codebook.word(r, 0), pairs, left);
    const float *a = codebook.word(r, code.a), *b = codebook.word(r, code.b);
    for (std::size_t p = 0; p < pairs; ++p) {
      left[p] -= a[p] - b[pairs + p];
      left[pairs + p] -= a[pairs + p] + b[p];
    }
    coded.codes.push_back(code);
  }
  float dots[4] = {};
  for (std::size_t i = 0; i < dim; ++i) dots[i % 4] += unit[i] * (unit[i] - left[i]);
  const float dot = (dots[0] + dots[1]) + (dots[2] + dots[3]);
  const float stored = Ufloat16ToFloat(FloatToUfloat16(tiny ? 0.0F : norm));
  coded.scale = FloatToUfloat16(stored / (dot > 0.5F ? dot : 0.5F));
  return coded;
}

/// The planar row that codes read back as.
inline std::vector<float> CommVqDecodeRow(const CommVqCodebook& codebook, const CommVqRow& row) {
  const std::size_t pairs = codebook.pairs;
  std::vector<float> planar(codebook.dim(), 0.0F);
  for (std::size_t r = 0; r < codebook.stages; ++r) {
    const float *a = codebook.word(r, row.codes[r].a), *b = codebook.word(r, row.codes[r].b);
    for (std::size_t p = 0; p < pairs; ++p) {
      planar[p] += a[p] - b[pairs + p];
      planar[pairs + p] += a[pairs + p] + b[p];
    }
  }
  for (float& x : planar) x *= Ufloat16ToFloat(row.scale);
  return planar;
}

}  // namespace kvant::kernels::reference
