// Scalar twin of spectral/basis.h.
#pragma once

#include <cstddef>

namespace kvant::kernels::reference {

/// Of one row.
inline void ToBasis(const float* basis, std::size_t dim, const float* row, float* out) {
  for (std::size_t a = 0; a < dim; ++a) {
    float four[4] = {};
    for (std::size_t i = 0; i < dim; ++i) four[i % 4] += row[i] * basis[a * dim + i];
    out[a] = (four[0] + four[1]) + (four[2] + four[3]);
  }
}

inline void FromBasis(const float* basis, std::size_t dim, const float* coordinates, const float* offset, float weight,
                      float* out) {
  for (std::size_t i = 0; i < dim; ++i) {
    float sum = offset == nullptr ? 0.0F : weight * offset[i];
    for (std::size_t a = 0; a < dim; ++a) sum += coordinates[a] * basis[a * dim + i];
    out[i] = sum;
  }
}

}  // namespace kvant::kernels::reference
