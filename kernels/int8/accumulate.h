// Weighted sums straight from 8-bit codes of values (int8/layout.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/int8/int16_rows.h"

namespace kvant::kernels {

/// acc[i * acc_stride + d] += float(sum over t of integer t of weight row i * code d of token t) * step i.
/// `integers` is [n, tokens], `codes` tokens / 4 quads.
void AccumulateInt8(const Int16Row* weights, const std::int16_t* integers, std::size_t n, const std::byte* codes,
                    std::size_t tokens, std::size_t dim, float* acc, std::size_t acc_stride, const std::byte* next,
                    std::size_t next_bytes) noexcept;

}  // namespace kvant::kernels
