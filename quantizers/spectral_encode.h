// The encoder of spectral codes: what their scale means, in one order of operations.
#pragma once

#include <cstddef>
#include <cstdint>

#include <kvant/tensor.h>

#include "kernels/lloyd/layout.h"
#include "quantizers/spectral_head.h"

namespace kvant::quantizers {

struct SpectralEncoding {
  const SpectralHead* head = nullptr;
  kernels::LloydLayout layout = kernels::LloydLayout::kKeys;
  bool unbiased = true;  ///< the scale: unbiased, or of least squares
};

/// Scratch of SpectralEncode: 16 rows, their coordinates, and two sets of columns.
constexpr std::size_t SpectralEncodeScratchBytes(std::size_t dim) noexcept { return 4 * 16 * dim * sizeof(float); }

/// Encodes all rows (rows.count a multiple of 128) into `codes`, SpectralHead::code_bytes of them, and `scales`, with
/// additions, multiplications, divisions and roots in one order: the same bytes on every target. Returns rows.count, or the
/// index of the first row with a NaN, an infinity or a scale beyond ufloat16. `scratch` is 64-byte aligned.
[[nodiscard]] std::size_t SpectralEncode(const SpectralEncoding& how, const RowsView& rows, std::uint8_t* codes,
                                         std::uint16_t* scales, std::byte* scratch) noexcept;

}  // namespace kvant::quantizers
