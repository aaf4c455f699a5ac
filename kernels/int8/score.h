// Logits straight from 8-bit codes of keys (int8/layout.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/int8/int16_rows.h"

namespace kvant::kernels {

/// logits[i * stride + t] = (float(sum over d of integer d of query i * code d of token t) * step i) * scale t.
/// `integers` is [n, dim], `codes` tokens / 16 tiles, `scales` [tokens] ufloat16. May prefetch [next, next + next_bytes).
void ScoreInt8(const Int16Row* queries, const std::int16_t* integers, std::size_t n, const std::byte* codes,
               const std::uint16_t* scales, std::size_t tokens, std::size_t dim, float* logits, std::size_t stride,
               const std::byte* next, std::size_t next_bytes) noexcept;

}  // namespace kvant::kernels
