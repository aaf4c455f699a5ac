// Products of a dense matrix with rows that stand in columns: the sketch of vectors by a matrix without structure.
#pragma once

#include <cstddef>

#include "kernels/rotation/hadamard.h"

namespace kvant::kernels {

/// out[i * 16 + r] = factor * sum over k of matrix[i * dim + k] * columns[k * 16 + r], for i < rows and r < 16, added in
/// ascending order of k: every lane alone, so the same bits on every target. Requires: rows is a multiple of 8; `columns` and
/// `out` are 64-byte aligned.
void DenseColumns(const float* matrix, std::size_t rows, std::size_t dim, const float* columns, float factor,
                  float* out) noexcept;

}  // namespace kvant::kernels
