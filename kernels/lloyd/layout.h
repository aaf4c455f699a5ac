// Where the codes of a block lie. Codes are natural binary indices into an ascending codebook (0 = most negative, so the top
// bit is the sign), cut into planes of 8, 4, 2 or 1 bits, the powers of two that their number is a sum of, the larger planes
// first and of the lower bits: 4 bits are one plane, 7 bits are planes of the low 4 bits, of the next 2 and of the top bit. A
// byte of a plane holds F = 8 / plane bits fields; field s is bits [s * b, s * b + b).
//
// Keys: a supertile is 16 * F tokens. It is dim / 4 vectors of 64 bytes, one per group of 4 dims; byte t * 4 + j of vector g,
//   field s = dim 4 * g + j of token 16 * s + t. So a broadcast of 4 query bytes meets 16 tokens in every field.
// Values: a supertile is 4 * F tokens: 4 * dim bytes; byte d * 4 + j, field s = dim d of token 4 * s + j. So a broadcast of
//   4 weights meets 16 dims in 64 bytes. (8 dims are a "cell" of 32 bytes; dims are a multiple of 8.)
// Planes of a block follow each other without gaps, then come the ufloat16 scales of its tokens. These bytes are stored and
// shared: a change needs a new codec version.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

namespace kvant::kernels {

enum class LloydLayout : std::uint8_t { kKeys, kValues };

struct LloydPlane {
  std::uint32_t bits = 0;   ///< of the plane: 1, 2, 4 or 8
  std::uint32_t shift = 0;  ///< its lowest bit within the index
};

/// The most that any number of bits has.
inline constexpr std::uint32_t kMaxLloydPlanes = 3;

constexpr std::uint32_t LloydPlaneCount(std::uint32_t bits) noexcept { return static_cast<std::uint32_t>(std::popcount(bits)); }

constexpr LloydPlane LloydPlaneAt(std::uint32_t bits, std::uint32_t plane) noexcept {
  std::uint32_t below = 0;
  for (; plane != 0; --plane) below += std::bit_floor(bits - below);
  return {std::bit_floor(bits - below), below};
}
static_assert(LloydPlaneCount(7) == kMaxLloydPlanes && LloydPlaneAt(7, 1).bits == 2 && LloydPlaneAt(7, 1).shift == 4 &&
              LloydPlaneAt(3, 0).bits == 2 && LloydPlaneAt(3, 1).shift == 2 && LloydPlaneAt(8, 0).bits == 8);

constexpr std::size_t LloydPlaneBytes(std::uint32_t plane_bits, std::size_t dim, std::size_t tokens) noexcept {
  return dim * tokens * plane_bits / 8;
}

/// Bytes of a block's codes; its scales begin here.
constexpr std::size_t LloydCodesBytes(std::uint32_t bits, std::size_t dim, std::size_t tokens) noexcept {
  return dim * tokens * bits / 8;
}

constexpr std::size_t LloydBlockBytes(std::uint32_t bits, std::size_t dim, std::size_t tokens) noexcept {
  return LloydCodesBytes(bits, dim, tokens) + tokens * sizeof(std::uint16_t);
}

/// Tokens of a block must be a multiple of this: whole key supertiles, on both sides.
constexpr std::uint32_t LloydBlockMultiple(std::uint32_t bits) noexcept {
  return 16 * (8 / LloydPlaneAt(bits, LloydPlaneCount(bits) - 1).bits);
}

/// Where one code lies within a plane.
struct LloydField {
  std::size_t byte = 0;
  std::uint32_t shift = 0;
};

constexpr LloydField LloydFieldOf(LloydLayout layout, std::uint32_t plane_bits, std::size_t dim, std::size_t token,
                                  std::size_t d) noexcept {
  const std::size_t lane_tokens = layout == LloydLayout::kKeys ? 16 : 4;
  const std::size_t fields = 8 / plane_bits;
  const std::size_t tile = token / (lane_tokens * fields);
  const std::size_t field = token / lane_tokens % fields;
  const std::size_t lane = token % lane_tokens;
  const std::size_t within = layout == LloydLayout::kKeys ? d / 4 * 64 + lane * 4 + d % 4 : d * 4 + lane;
  return {tile * lane_tokens * dim + within, static_cast<std::uint32_t>(field * plane_bits)};
}

/// The index of one code. Slow: for decoding rows and for references.
constexpr std::uint32_t LloydIndexAt(LloydLayout layout, std::uint32_t bits, std::size_t dim, std::size_t tokens,
                                     const std::uint8_t* codes, std::size_t token, std::size_t d) noexcept {
  std::uint32_t index = 0;
  for (std::uint32_t p = 0; p < LloydPlaneCount(bits); ++p) {
    const LloydPlane plane = LloydPlaneAt(bits, p);
    const LloydField at = LloydFieldOf(layout, plane.bits, dim, token, d);
    index |= ((static_cast<std::uint32_t>(codes[at.byte]) >> at.shift) & ((1u << plane.bits) - 1u)) << plane.shift;
    codes += LloydPlaneBytes(plane.bits, dim, tokens);
  }
  return index;
}

}  // namespace kvant::kernels
