#include "quantizers/rope_pairs.h"

namespace kvant::quantizers {

std::size_t TurnedPairs(const RopeSpec& rope, std::size_t dim) noexcept {
  return (rope.rotary_dims == 0 ? dim : rope.rotary_dims) / 2;
}

std::vector<std::uint16_t> PlanarPlaces(const RopeSpec& rope, std::size_t dim) {
  std::vector<std::uint16_t> places(dim);
  const std::size_t turned = TurnedPairs(rope, dim), rest = dim / 2 - turned;
  for (std::size_t p = 0; p < dim / 2; ++p) {
    std::size_t real = 2 * p, imaginary = 2 * p + 1;
    if (rope.pairing != RopePairing::kAdjacent) {
      real = p < turned ? p : turned + p;
      imaginary = real + (p < turned ? turned : rest);
    }
    places[p] = static_cast<std::uint16_t>(real);
    places[dim / 2 + p] = static_cast<std::uint16_t>(imaginary);
  }
  return places;
}

}  // namespace kvant::quantizers
