// Polar codes back to rows, one at a time: what decoding needs, which no attention does.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/polar/layout.h"

namespace kvant::kernels {

/// row[0 .. dim): the rotated row of token `token` of a block of `tokens`.
void PolarDecodeRow(const PolarForm& form, const std::uint8_t* block, std::size_t tokens, std::size_t token,
                    float* row) noexcept;

}  // namespace kvant::kernels
