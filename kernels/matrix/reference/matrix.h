// Scalar twin of matrix/matrix.h.
#pragma once

#include <cstddef>

namespace kvant::kernels::reference {

/// Of one row.
inline void RowsTimesTransposed(const float* matrix, std::size_t dim, const float* row, float* out) {
  for (std::size_t a = 0; a < dim; ++a) {
    float four[4] = {};
    for (std::size_t i = 0; i < dim; ++i) four[i % 4] += row[i] * matrix[a * dim + i];
    out[a] = (four[0] + four[1]) + (four[2] + four[3]);
  }
}

inline void RowsTimesMatrix(const float* matrix, std::size_t dim, const float* row, const float* offset, float weight,
                            float* out) {
  for (std::size_t i = 0; i < dim; ++i) {
    float sum = offset == nullptr ? 0.0F : weight * offset[i];
    for (std::size_t a = 0; a < dim; ++a) sum += row[a] * matrix[a * dim + i];
    out[i] = sum;
  }
}

}  // namespace kvant::kernels::reference
