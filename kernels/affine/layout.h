// Where the codes of an asymmetric ("affine") block lie, and the step and zero of each of its groups: x = zero + step * code,
// code in [0, 2^bits).
//
// Codes are cut into planes of 8, 4, 2 or 1 bits, low bits first: 3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2, 7 = 4 + 2 + 1, the others
// one plane. A plane's bytes lie as kernels/lloyd/layout.h says (keys in tiles of 16 tokens by 4 dims, values in tiles of 4
// tokens by all dims, fields of a byte are other tokens). Planes follow each other without gaps, then the groups: Keys: a group
// is `group` consecutive tokens of one dim. For each run of `group` tokens: head_dim steps, head_dim zeros. Values: a group is
// `group` consecutive dims of one token, the last one shorter where head_dim is no multiple. For each group of
//   dims: block_tokens steps, block_tokens zeros.
// Steps are ufloat16 (kernels/ufloat16.h), zeros f16: 32 bits per group. These bytes are stored and shared: a change needs a
// new codec version.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "kernels/lloyd/layout.h"

namespace kvant::kernels {

inline constexpr std::uint32_t kAffineMaxBits = 8;

/// Widths of the planes, low bits first; 0 for none.
constexpr std::array<std::uint32_t, 3> AffinePlanes(std::uint32_t bits) noexcept {
  switch (bits) {
    case 3: return {2, 1, 0};
    case 5: return {4, 1, 0};
    case 6: return {4, 2, 0};
    case 7: return {4, 2, 1};
    default: return {bits, 0, 0};
  }
}

/// Fields of a byte of the narrowest plane: tokens of a block come in multiples of 16 times this, so that tiles are whole.
constexpr std::uint32_t AffineFields(std::uint32_t bits) noexcept {
  std::uint32_t narrowest = 8;
  for (const std::uint32_t plane : AffinePlanes(bits)) {
    if (plane != 0) narrowest = std::min(narrowest, plane);
  }
  return 8 / narrowest;
}

/// A block of one KV head.
struct AffineShape {
  LloydLayout layout = LloydLayout::kKeys;
  std::uint32_t bits = 0;
  std::size_t group = 0;  ///< tokens (keys) or dims (values) that share a step and a zero
  std::size_t dim = 0;    ///< a multiple of 8
  std::size_t tokens = 0;

  /// Groups along the axis that is grouped, and the numbers of one of them (the last may be shorter).
  [[nodiscard]] constexpr std::size_t groups() const noexcept {
    return layout == LloydLayout::kKeys ? tokens / group : (dim + group - 1) / group;
  }
  /// Groups along the other axis.
  [[nodiscard]] constexpr std::size_t lines() const noexcept { return layout == LloydLayout::kKeys ? dim : tokens; }
  [[nodiscard]] constexpr std::size_t codes_bytes() const noexcept { return LloydCodesBytes(bits, dim, tokens); }
  [[nodiscard]] constexpr std::size_t bytes() const noexcept {
    return codes_bytes() + groups() * lines() * 2 * sizeof(std::uint16_t);
  }
  /// Bytes from the start of the block to the steps of `line` 0 of group `g`, and to its zeros.
  [[nodiscard]] constexpr std::size_t steps_at(std::size_t g) const noexcept {
    return codes_bytes() + g * lines() * 2 * sizeof(std::uint16_t);
  }
  [[nodiscard]] constexpr std::size_t zeros_at(std::size_t g) const noexcept {
    return steps_at(g) + lines() * sizeof(std::uint16_t);
  }
};

/// The code at (token, d). Slow: for decoding rows and for references.
constexpr std::uint32_t AffineCodeAt(const AffineShape& shape, const std::uint8_t* codes, std::size_t token,
                                     std::size_t d) noexcept {
  std::uint32_t code = 0, shift = 0;
  for (const std::uint32_t plane : AffinePlanes(shape.bits)) {
    if (plane == 0) break;
    const LloydField at = LloydFieldOf(shape.layout, plane, shape.dim, token, d);
    code |= ((static_cast<std::uint32_t>(codes[at.byte]) >> at.shift) & ((1u << plane) - 1u)) << shift;
    codes += LloydPlaneBytes(plane, shape.dim, shape.tokens);
    shift += plane;
  }
  return code;
}

}  // namespace kvant::kernels
