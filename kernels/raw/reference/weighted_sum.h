// Scalar twin of kernels/raw/weighted_sum.h with double sums.
#pragma once

#include <cstddef>

#include <kvant/tensor.h>

#include "kernels/raw/reference/rows.h"

namespace kvant::kernels::reference {

/// Sum over t of weights[t] * rows[t][k].
inline double WeightedSum(const float* weights, const RowsView& rows, std::size_t k) {
  double sum = 0;
  for (std::size_t t = 0; t < rows.count; ++t) sum += weights[t] * ElementAt(rows.data, rows.type, t * rows.stride + k);
  return sum;
}

}  // namespace kvant::kernels::reference
