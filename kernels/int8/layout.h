// Where 8-bit codes lie in a block: the order in which vector units multiply them.
//
// A code c in [-127, 127] is stored as the byte c + 128. Keys: tiles of 16 tokens; byte 64 g + 4 t + j of a tile is token t,
// dim 4 g + j. Values: quads of 4 tokens; byte 4 d + j of a quad is dim d, token j. So a 32-bit lane holds four codes of one
// token (or of one dim): masking gives the 1st and 3rd as 16-bit numbers, shifting the 2nd and 4th, and one instruction
// multiplies a pair of them with a pair of 16-bit query numbers (or weights) and adds. Sums are exact integers, hence the same
// on every target.
#pragma once

#include <cstddef>

namespace kvant::kernels {

inline constexpr std::size_t kInt8KeyTile = 16;
inline constexpr std::size_t kInt8ValueTile = 4;

}  // namespace kvant::kernels
