// Levels of the first planes of a code: of each of their cells the mean of the normal distribution there, in 12 bits. Part of
// the stored format: they are what a block of so many planes means.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/lloyd/encode.h"
#include "kernels/lloyd/table.h"

namespace kvant::kernels {

/// How many units of LloydPlaneTables one unit of the code's own table is.
constexpr int LloydPlaneUnits(std::uint32_t bits) noexcept { return LloydHasWords(bits) ? 1 : 16; }

/// Planes that are joined to look levels of `count` planes up: kernels know these numbers.
constexpr std::uint32_t LloydJoinedPlanes(std::uint32_t count) noexcept { return count <= 4 ? 4 : count <= 6 ? 6 : 8; }

/// [bits]: number count - 1 is a table of 8 bits for the first `count` planes of a code of `bits`, whose indices are in the top
/// bits of a byte. One stored scale serves every count: it was chosen for all planes, so levels of fewer are stretched by what
/// `scale` would have been larger on average over normal rows. With all planes levels are the code's own. Units are
/// LloydPlaneUnits times the code's, whatever the count. Requires: 1 <= bits <= 8. Live as long as the process; the first call
/// for `bits` and `scale` allocates and computes them. Any thread.
[[nodiscard]] std::span<const LloydTable> LloydPlaneTables(std::uint32_t bits, LloydScale scale);

}  // namespace kvant::kernels
