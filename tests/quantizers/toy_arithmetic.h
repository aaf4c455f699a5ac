// What the toy codecs compute with: plain loops, no kernels.
#pragma once

#include <algorithm>
#include <cstddef>

#include <kvant/tensor.h>

#include "kernels/raw/rows.h"

namespace kvant::quantizers::test {

/// Row `t` of a view as floats; returns what kernels::LoadRow does.
inline float LoadRowOf(const RowsView& rows, std::size_t t, float* out) {
  const auto* row = static_cast<const std::byte*>(rows.data) + t * rows.stride * ElementBytes(rows.type);
  return kernels::LoadRow(row, rows.type, rows.dim, out);
}

/// Stores a number, or adds it.
inline void Put(float& to, float number, bool add) { to = add ? to + number : number; }

inline float Dot(const float* a, const float* b, std::size_t n) {
  double sum = 0;
  for (std::size_t k = 0; k < n; ++k) sum += static_cast<double>(a[k]) * static_cast<double>(b[k]);
  return static_cast<float>(sum);
}

}  // namespace kvant::quantizers::test
