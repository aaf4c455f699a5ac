// Weighted sums of raw rows.
#pragma once

#include <cstddef>

#include <kvant/tensor.h>

namespace kvant::kernels {

/// acc[i * acc_stride + k] += sum over t of weights[i * weight_stride + t] * rows[t][k], for `n` queries.
/// Requires: rows.dim is a multiple of 8. A sum runs over t in order and does not depend on n.
/// [next, next + next_bytes) is memory to prefetch, `next` may be null.
void WeightedSumRows(const float* weights, std::size_t weight_stride, std::size_t n, const RowsView& rows, float* acc,
                     std::size_t acc_stride, const std::byte* next = nullptr, std::size_t next_bytes = 0) noexcept;

/// acc[k] = acc[k] * factor for `n` floats.
void Rescale(float* acc, std::size_t n, float factor) noexcept;

/// acc[k] += x[k] * factor for `n` floats.
void AddScaled(const float* x, std::size_t n, float factor, float* acc) noexcept;

}  // namespace kvant::kernels
