// Trellis-coded quantisation (Marcellin and Fischer, IEEE Trans. Commun. 38, 1990) with Ungerboeck's code of 8 states: a code
// of `bits` bits picks among 2^(bits + 1) levels, twice as many as its own bits can tell apart. The missing bit comes from the
// codes before it on a path through the row, so that neighbouring codes choose among interleaved halves of the levels; the
// encoder searches the path with the least error (encode.h). **The stored format.**
//
// A code is w * 2 + u: u its first bit, w the others. With u1, u2, u3 the first bits of the codes one, two and three steps
// before it on the path, it stands for level w * 4 + z1 * 2 + z0 of a table (table.h), where
//
//   z0 = u2        z1 = u ^ u1 ^ u3        (parity check polynomials 04 and 13, octal)
//
// There is no state to carry along: a number is a function of its own code and three bits of its neighbours. The path is a
// ring: before its first code comes its last, so no part of a row is worse off than others.
//
// Codes lie as those of kernels/lloyd/layout.h. The path goes the way in which a step back costs kernels least:
//   keys:   dims 0, 4, 8, ..., then 1, 5, 9, ...: a step back is the vector of the four dims before, same lane and byte
//   values: dims 0, 1, 2, ...: a step back is four bytes
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/lloyd/layout.h"

namespace kvant::kernels {

inline constexpr std::uint32_t kMaxTrellisBits = 4;

/// Head sizes are multiples of this, and at least kLeastTrellisDim.
inline constexpr std::size_t kTrellisDimMultiple = 16;
inline constexpr std::size_t kLeastTrellisDim = 48;

/// Codes before a code whose first bits decide about its level.
inline constexpr std::size_t kTrellisMemory = 3;
inline constexpr std::uint32_t kTrellisStates = 1u << kTrellisMemory;

/// The dim that comes at `step` of the path.
constexpr std::size_t TrellisDimAt(LloydLayout layout, std::size_t dim, std::size_t step) noexcept {
  return layout == LloydLayout::kKeys ? step % (dim / 4) * 4 + step / (dim / 4) : step;
}

/// The step of the path that a dim has.
constexpr std::size_t TrellisStepOf(LloydLayout layout, std::size_t dim, std::size_t d) noexcept {
  return layout == LloydLayout::kKeys ? d % 4 * (dim / 4) + d / 4 : d;
}

/// The level of a code after those `before` it, the last one first.
constexpr std::uint32_t TrellisLevel(std::uint32_t code, const std::uint32_t (&before)[kTrellisMemory]) noexcept {
  const std::uint32_t z0 = before[1] & 1u, z1 = (code ^ before[0] ^ before[2]) & 1u;
  return code >> 1 << 2 | z1 << 1 | z0;
}

/// The level of one dim of a block. Slow: for decoding rows and for references.
constexpr std::uint32_t TrellisLevelAt(LloydLayout layout, std::uint32_t bits, std::size_t dim, std::size_t tokens,
                                       const std::uint8_t* codes, std::size_t token, std::size_t d) noexcept {
  const std::size_t step = TrellisStepOf(layout, dim, d);
  const auto code = [&](std::size_t back) {
    const std::size_t at = TrellisDimAt(layout, dim, (step + dim - back) % dim);
    return LloydIndexAt(layout, bits, dim, tokens, codes, token, at);
  };
  return TrellisLevel(code(0), {code(1), code(2), code(3)});
}

}  // namespace kvant::kernels
