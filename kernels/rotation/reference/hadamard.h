// Scalar twin of hadamard.h: one row in float, the same operations in the same order.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/rotation/hadamard.h"
#include "kernels/rotation/paley.h"

namespace kvant::kernels::reference {

inline void Sylvester(float* x, std::size_t rows, std::size_t h) {
  for (; h < rows; h *= 2) {
    for (std::size_t i = 0; i < rows; ++i) {
      if (i / h % 2 != 0) continue;
      const float a = x[i], b = x[i + h];
      x[i] = a + b;
      x[i + h] = a - b;
    }
  }
}

template <std::size_t kOrder>
void Paley(float* x, std::size_t rows, const std::array<std::array<std::uint8_t, kOrder / 4>, kOrder>& patterns) {
  for (std::size_t block = 0; block < rows; block += kOrder) {
    const std::vector<float> in(x + block, x + block + kOrder);
    for (std::size_t row = 0; row < kOrder; ++row) {
      float sum = 0.0f;
      for (std::size_t k = 0; k < kOrder / 4; ++k) {
        const auto sign = [&](std::size_t j) { return (patterns[row][k] >> j & 1) != 0 ? -in[4 * k + j] : in[4 * k + j]; };
        const float four = (sign(0) + sign(1)) + (sign(2) + sign(3));
        sum = k == 0 ? four : sum + four;
      }
      x[block + row] = sum;
    }
  }
}

inline void Flip(float* x, std::size_t dim, const std::uint32_t* signs) {
  for (std::size_t i = 0; i < dim; ++i) x[i] = signs[i] != 0 ? -x[i] : x[i];
}

inline void MixHalves(float* x, std::size_t dim) {
  for (std::size_t i = 0; i < dim / 2; ++i) {
    const float a = x[i], b = x[i + dim / 2];
    x[i] = (a + b) * 0.70710678f;
    x[i + dim / 2] = (a - b) * 0.70710678f;
  }
}

inline void MixRun(float* x, std::size_t power) {
  float factor = 1.0f;
  std::size_t p = power;
  for (; p >= 4; p /= 4) factor *= 0.5f;
  if (p == 2) factor *= 0.70710678f;
  Sylvester(x, power, 1);
  for (std::size_t i = 0; i < power; ++i) x[i] *= factor;
}

/// x: [dim], one row.
inline void Hadamard(const HadamardShape& shape, std::size_t rounds, const std::uint32_t* signs, float* x) {
  for (std::size_t step = 0; step < (shape.core == 0 ? 2 * rounds : rounds); ++step) {
    Flip(x, shape.dim, signs + step * shape.dim);
    if (shape.core == 0) {
      MixRun(step % 2 == 0 ? x : x + (shape.dim - shape.power), shape.power);
      MixHalves(x, shape.dim);
      continue;
    }
    if (shape.core == 12) Paley<12>(x, shape.dim, kPaley12.forward);
    if (shape.core == 20) Paley<20>(x, shape.dim, kPaley20.forward);
    Sylvester(x, shape.dim, shape.core);
  }
}

inline void HadamardInverse(const HadamardShape& shape, std::size_t rounds, const std::uint32_t* signs, float* x) {
  for (std::size_t step = shape.core == 0 ? 2 * rounds : rounds; step-- > 0;) {
    if (shape.core == 0) {
      MixHalves(x, shape.dim);
      MixRun(step % 2 == 0 ? x : x + (shape.dim - shape.power), shape.power);
    } else {
      Sylvester(x, shape.dim, shape.core);
      if (shape.core == 12) Paley<12>(x, shape.dim, kPaley12.transposed);
      if (shape.core == 20) Paley<20>(x, shape.dim, kPaley20.transposed);
    }
    Flip(x, shape.dim, signs + step * shape.dim);
  }
}

}  // namespace kvant::kernels::reference
