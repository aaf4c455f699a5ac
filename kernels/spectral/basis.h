// Rows to coordinates in an orthonormal basis and back, in one order of operations: the same bits on every target.
#pragma once

#include <cstddef>

namespace kvant::kernels {

inline constexpr std::size_t kMaxBasisDim = 256;

/// out[r, a] = <row r, basis row a>: four running sums over every fourth number, added as (0 + 1) + (2 + 3). n rows, row r at
/// rows + r * stride; basis [dim, dim]; out [n, dim], adjacent, apart from the rows. dim is a multiple of 8 up to kMaxBasisDim.
void ToBasis(const float* basis, std::size_t dim, const float* rows, std::size_t stride, std::size_t n, float* out) noexcept;

/// out[r, i] = sum over a, in its order, of coordinates[r, a] * basis[a, i], on top of offset[i] * offset_weights[r] if there
/// is an offset. n rows of coordinates, adjacent; out [n, dim], adjacent, apart from them.
struct FromBasisArgs {
  const float* basis = nullptr;
  std::size_t dim = 0;
  const float* coordinates = nullptr;
  std::size_t n = 0;
  const float* offset = nullptr;          ///< [dim], or null
  const float* offset_weights = nullptr;  ///< [n]; not read without an offset
  float* out = nullptr;
};
void FromBasis(const FromBasisArgs& args) noexcept;

}  // namespace kvant::kernels
