// Strides and the add mode of the codec contract, for codecs whose kernels read and write adjacent rows.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cstddef>

#include <kvant/tensor.h>

#include "kernels/raw/rows.h"
#include "kernels/raw/weighted_sum.h"

namespace kvant::quantizers {

/// All rows as floats into `out`, adjacent; each element is read once. The first row that holds NaN or infinity, or rows.count;
/// rows behind such a row are not loaded.
inline std::size_t LoadFiniteRows(const RowsView& rows, float* out) {
  const auto* from = static_cast<const std::byte*>(rows.data);
  const std::size_t stride = rows.stride * ElementBytes(rows.type);
  for (std::size_t t = 0; t < rows.count; ++t) {
    if (!(kernels::LoadRow(from + t * stride, rows.type, rows.dim, out + t * rows.dim) <= FLT_MAX)) return t;
  }
  return rows.count;
}

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
