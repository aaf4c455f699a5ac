// Rows times a square matrix, in a fixed order of operations: the same bits on every target.
#pragma once

#include <cstddef>

namespace kvant::kernels {

/// out[r, j] = sum over i of rows[r * stride + i] * matrix[i, j], in the order of i; n rows, matrix [dim, dim], out [n, dim]
/// adjacent, not overlapping rows. dim is a multiple of 8.
void RowsTimesMatrix(const float* rows, std::size_t stride, std::size_t n, std::size_t dim, const float* matrix,
                     float* out) noexcept;

}  // namespace kvant::kernels
