// Rows to affine codes: the step and zero of each group, then its codes (KIVI, arXiv 2402.02750, section 4).
//
// zero: the largest f16 number not above the group's minimum, so that what f16 cannot hold of it is part of the range and not
// of the error; step: (maximum - zero) / (2^bits - 1) as ufloat16; code: (x - zero) / step rounded. So |x - x'| <= step / 2 for
// every number of the group, whatever zero and step were rounded to. A group of equal numbers that f16 holds has step 0 and is
// exact.
//
// Plain C++, every number by itself and in one order: the bytes are the same on every machine.
#pragma once

#include <cstddef>

#include "kernels/affine/layout.h"

namespace kvant::kernels {

/// Rows that are encoded together: whole groups and whole words of codes.
constexpr std::size_t AffineRowsAtOnce(const AffineShape& shape) noexcept {
  return shape.layout == LloydLayout::kKeys ? shape.group : 4;
}

/// Scratch of EncodeAffine: keys take two floats and a code per dim, values four codes.
constexpr std::size_t AffineEncodeScratchBytes(const AffineShape& shape) noexcept {
  return (2 * sizeof(float) + 1) * shape.dim;
}

/// Makes a block ready for EncodeAffine, which adds bits.
void ClearAffineCodes(const AffineShape& shape, std::byte* block) noexcept;

/// Encodes rows [first, first + AffineRowsAtOnce) of a block, given adjacent. Requires: no magnitude exceeds kF16Max; `first`
/// is a multiple of AffineRowsAtOnce.
void EncodeAffine(const AffineShape& shape, const float* rows, std::size_t first, std::byte* block,
                  std::byte* scratch) noexcept;

}  // namespace kvant::kernels
