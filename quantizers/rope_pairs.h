// Which numbers of a row RoPE turns together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <kvant/rope.h>

namespace kvant::quantizers {

/// Pairs of a row that RoPE turns: they come first in the order of PlanarPlaces.
[[nodiscard]] std::size_t TurnedPairs(const RopeSpec& rope, std::size_t dim) noexcept;

/// Where number i of a planar row (the real part of every pair, then the imaginary ones) lies in a row [dim]: pair p is the
/// model's, (p, p + n) of n pairs that are turned or (2p, 2p + 1); numbers that RoPE leaves alone follow in pairs of the same
/// kind.
[[nodiscard]] std::vector<std::uint16_t> PlanarPlaces(const RopeSpec& rope, std::size_t dim);

}  // namespace kvant::quantizers
