// Between rows of numbers and the columns that hadamard.h works on ([dim][16], row r in lane r).
#pragma once

#include <cstddef>

#include <kvant/tensor.h>

#include "kernels/rotation/hadamard.h"

namespace kvant::kernels {

/// columns[i * 16 + r] = number i of row first + r as f32 (exact), for r < count; lanes from count on become 0.
/// Each element is read once. Requires: count <= 16; rows.dim a multiple of 8 up to kMaxHeadDim; `columns` 64-byte aligned.
void LoadColumns(const RowsView& rows, std::size_t first, std::size_t count, float* columns) noexcept;

/// rows[r * stride + i] = columns[i * 16 + first + r] for r < count. Requires: first + count <= 16, dim a multiple of 8.
void StoreColumns(const float* columns, std::size_t dim, std::size_t first, std::size_t count, float* rows,
                  std::size_t stride) noexcept;

}  // namespace kvant::kernels
