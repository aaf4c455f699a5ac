// The distortion of codes that divide a group's range into equal steps, on normal numbers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvant::quantizers {

/// E(x - x')^2 of the numbers of a group of `n` independent N(0, 1) numbers, rounded to 2^bits levels of which the first is the
/// group's minimum and the last its maximum. Requires: n >= 3, bits in 1..8.
[[nodiscard]] double RangeError(std::size_t n, std::uint32_t bits);

}  // namespace kvant::quantizers
