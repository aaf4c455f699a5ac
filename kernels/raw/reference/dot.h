// Scalar twin of kernels/raw/dot.h with double sums.
#pragma once

#include <cstddef>

#include <kvant/tensor.h>

#include "kernels/raw/reference/rows.h"

namespace kvant::kernels::reference {

inline double DotRow(const float* query, const RowsView& rows, std::size_t t) {
  double sum = 0;
  for (std::size_t k = 0; k < rows.dim; ++k) sum += query[k] * ElementAt(rows.data, rows.type, t * rows.stride + k);
  return sum;
}

}  // namespace kvant::kernels::reference
