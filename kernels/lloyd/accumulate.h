// Weighted sums straight from the codes of values: exact integer sums of centroids and integer weights.
//
// For each query and each run of up to 128 tokens, weight * scale is rounded to an integer in [0, 255] (8 bits: [0, 4095])
// times one step, largest / 255: the rounding error of a run is at most step / 2 per token, its square at most 128 / (12 *
// 255^2) of the largest term's, which is below 2 % of the codes' own distortion at 4 bits (8 bits: 4095, 2 % as well).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/lloyd/table.h"

namespace kvant::kernels {

/// Tokens that share the step of a query's integer weights.
inline constexpr std::size_t kLloydWeightRun = 128;

constexpr std::int32_t LloydWeightMax(std::uint32_t bits) noexcept { return bits == 8 ? 4095 : 255; }

struct LloydAccumulateArgs {
  const LloydTable* table = nullptr;
  std::size_t dim = 0;
  std::size_t tokens = 0;               ///< of the block
  const std::uint8_t* block = nullptr;  ///< LloydLayout::kValues
  const float* weights = nullptr;       ///< query i, token t: weights[i * stride + t], >= 0 and finite
  std::size_t stride = 0;
  std::size_t queries = 0;
  float* acc = nullptr;  ///< query i: acc[i * acc_stride ..], dim floats: += sum over t of weight * scale * centroid
  std::size_t acc_stride = 0;
  std::byte* scratch = nullptr;     ///< LloydAccumulateScratchBytes, 64-byte aligned
  const std::byte* next = nullptr;  ///< memory to prefetch, or null
  std::size_t next_bytes = 0;
};

/// Of `n` queries: their words, totals and steps, and a run's scales. A multiple of 16 queries: tiles read that many.
constexpr std::size_t LloydAccumulateScratchBytes(std::size_t n) noexcept {
  n = (n + 15) / 16 * 16;
  return kLloydWeightRun * sizeof(float) +
         n * (kLloydWeightRun / 2 * sizeof(std::uint32_t) + sizeof(std::int32_t) + sizeof(float)) + 64;
}

void LloydAccumulate(const LloydAccumulateArgs& args) noexcept;

}  // namespace kvant::kernels
