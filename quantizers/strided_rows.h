// Strides and the add mode of the codec contract, for codecs whose kernels read and write adjacent rows.
#pragma once

#include <algorithm>
#include <cstddef>

#include "kernels/raw/weighted_sum.h"

namespace kvant::quantizers {

/// n rows of `dim` floats, row i at rows + i * stride, as adjacent rows: where they lie if they are adjacent, else copied to
/// `scratch` ([n, dim]).
inline const float* AdjacentRows(const float* rows, std::size_t stride, std::size_t n, std::size_t dim, float* scratch) {
  if (stride == dim || n <= 1) return rows;
  for (std::size_t i = 0; i < n; ++i) std::copy_n(rows + i * stride, dim, scratch + i * dim);
  return scratch;
}

/// Where a kernel that overwrites adjacent rows should write what is to end in `rows`: there if that does the same, else to
/// `scratch` ([n, dim]). PutRows then brings it home.
inline float* RowsTarget(float* rows, std::size_t stride, std::size_t n, std::size_t dim, bool add, float* scratch) {
  return !add && (stride == dim || n <= 1) ? rows : scratch;
}

/// Stores n adjacent rows at `from` into rows + i * stride, or adds them. Does nothing if they lie there already.
inline void PutRows(const float* from, std::size_t n, std::size_t dim, float* rows, std::size_t stride, bool add) {
  if (from == rows) return;
  for (std::size_t i = 0; i < n; ++i) {
    if (add) {
      kernels::AddScaled(from + i * dim, dim, 1.0F, rows + i * stride);
    } else {
      std::copy_n(from + i * dim, dim, rows + i * stride);
    }
  }
}

}  // namespace kvant::quantizers
