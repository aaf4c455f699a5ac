// Scalar twin of sketch/dense.h.
#pragma once

#include <cstddef>

#include "kernels/sketch/dense.h"

namespace kvant::kernels::reference {

inline void DenseColumns(const float* matrix, std::size_t rows, std::size_t dim, const float* columns, float factor,
                         float* out) {
  for (std::size_t i = 0; i < rows; ++i) {
    for (std::size_t r = 0; r < kLanes; ++r) {
      float sum = 0.0f;
      for (std::size_t k = 0; k < dim; ++k) sum = sum + matrix[i * dim + k] * columns[k * kLanes + r];
      out[i * kLanes + r] = sum * factor;
    }
  }
}

}  // namespace kvant::kernels::reference
