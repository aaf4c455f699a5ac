// Rotated rows back to rows: what attention does once per call with its sums, and decoding with its codes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/rotation/hadamard.h"

namespace kvant::kernels {

/// Everything is borrowed.
struct UnrotateArgs {
  HadamardMap map;
  float factor = 1.0f;
  const float* mean = nullptr;          ///< [dim], or null for none
  const float* mean_weights = nullptr;  ///< [n]; not read without a mean
  const float* from = nullptr;          ///< row i at from + i * stride
  std::size_t stride = 0;
  std::size_t n = 0;
  float* rows = nullptr;         ///< [n, dim], adjacent; overwritten
  std::byte* scratch = nullptr;  ///< RotationScratchBytes(dim), 64-byte aligned
};

/// rows[i] = factor * gain * transpose(Q) from[i] + mean_weights[i] * mean. The same bits on every target and for every n.
void Unrotate(const UnrotateArgs& args) noexcept;

}  // namespace kvant::kernels
