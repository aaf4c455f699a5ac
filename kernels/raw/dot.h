// Dot products of float queries with raw rows.
#pragma once

#include <cstddef>

#include <kvant/tensor.h>

namespace kvant::kernels {

/// logits[i * logit_stride + t] = <query i, row t> for `n` queries and `rows.count` rows of `rows.dim` numbers.
/// `queries` is [n, dim], adjacent. Requires: dim is a multiple of 8. A sum does not depend on n or on the other rows.
/// [next, next + next_bytes) is memory to prefetch, `next` may be null.
void DotRows(const float* queries, std::size_t n, const RowsView& rows, float* logits, std::size_t logit_stride,
             const std::byte* next = nullptr, std::size_t next_bytes = 0) noexcept;

}  // namespace kvant::kernels
