// Rows to 8-bit codes.
#pragma once

#include <cstddef>

namespace kvant::kernels {

/// Codes of 16 rows of `dim` numbers (adjacent) into a key tile of 16 * dim bytes: round(row[t] * inverse_scales[t]), clamped
/// to +-127. Requires: dim is a multiple of 8 (also below).
void PackInt8Keys(const float* rows, const float* inverse_scales, std::size_t dim, std::byte* tile) noexcept;

/// Codes of 4 rows into a value quad of 4 * dim bytes.
void PackInt8Values(const float* rows, const float* inverse_scales, std::size_t dim, std::byte* quad) noexcept;

}  // namespace kvant::kernels
