// The pieces of an online softmax over rows of logits.
#pragma once

#include <cstddef>

namespace kvant::kernels {

/// Largest of `n` logits; -infinity if n is 0 or all are -infinity.
[[nodiscard]] float MaxOf(const float* logits, std::size_t n) noexcept;

/// logits[i] = exp(logits[i] - max), in place; returns the sum. -infinity gives exactly 0, as does anything below -87.3 (where
/// the exponential leaves f32's normal range). Relative error of one weight below 2^-22. Requires: max is finite and no logit
/// exceeds it. [next, next + next_bytes) is memory to prefetch, `next` may be null.
float ExpShifted(float* logits, std::size_t n, float max, const std::byte* next = nullptr, std::size_t next_bytes = 0) noexcept;

/// logits[i] = cap * tanh(logits[i] / cap), in place. Requires: cap > 0.
void SoftCap(float* logits, std::size_t n, float cap) noexcept;

}  // namespace kvant::kernels
