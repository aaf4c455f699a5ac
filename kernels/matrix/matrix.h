// Rows times a square matrix, and times its transpose, in one order of operations: the same bits on every target.
#pragma once

#include <cstddef>

namespace kvant::kernels {

inline constexpr std::size_t kMaxTransposedDim = 256;

/// out[r, a] = <row r, matrix row a>: four running sums over every fourth number, added as (0 + 1) + (2 + 3). n rows, row r at
/// rows + r * stride; matrix [dim, dim]; out [n, dim], adjacent, apart from the rows. dim is a multiple of 8 up to
/// kMaxTransposedDim.
void RowsTimesTransposed(const float* matrix, std::size_t dim, const float* rows, std::size_t stride, std::size_t n,
                         float* out) noexcept;

/// out[r, i] = sum over a, in its order, of row r's number a * matrix[a, i], on top of offset[i] * offset_weights[r] if there
/// is an offset. n rows, row r at rows + r * stride; matrix [dim, dim]; out [n, dim], adjacent, apart from the rows. dim is a
/// multiple of 8.
struct RowsTimesMatrixArgs {
  const float* matrix = nullptr;
  std::size_t dim = 0;
  const float* rows = nullptr;
  std::size_t stride = 0;
  std::size_t n = 0;
  const float* offset = nullptr;          ///< [dim], or null
  const float* offset_weights = nullptr;  ///< [n]; not read without an offset
  float* out = nullptr;
};
void RowsTimesMatrix(const RowsTimesMatrixArgs& args) noexcept;

}  // namespace kvant::kernels
