// The pieces of an online softmax over rows of logits.
#pragma once

#include <cstddef>

namespace kvant::kernels {

/// Largest of `n` logits; -infinity if n is 0 or all are -infinity.
[[nodiscard]] float MaxOf(const float* logits, std::size_t n) noexcept;

/// logits[i] = exp(logits[i] - max), in place, for `blocks` * `n` adjacent logits; sums[b] becomes the sum over block b of n.
/// -infinity gives exactly 0, as does anything below -87.3 (where the exponential leaves f32's normal range); a NaN that
/// arithmetic made (without a payload) makes its sum NaN. Relative error of
/// one weight below 2^-22. Requires: max is finite and no logit exceeds it. [next, next + next_bytes) is memory to prefetch,
/// `next` may be null.
void ExpShifted(float* logits, std::size_t blocks, std::size_t n, float max, float* sums, const std::byte* next,
                std::size_t next_bytes) noexcept;

/// The same for one block; returns its sum.
inline float ExpShifted(float* logits, std::size_t n, float max) noexcept {
  float sum = 0.0f;
  ExpShifted(logits, 1, n, max, &sum, nullptr, 0);
  return sum;
}

/// logits[i] = cap * tanh(logits[i] / cap), in place. Requires: cap > 0.
void SoftCap(float* logits, std::size_t n, float cap) noexcept;

}  // namespace kvant::kernels
