// Where the angles and radii of a block of polar codes lie: the stored format (Han et al., arXiv 2502.02617).
//
// A rotated row is folded up: level 1 turns pairs of numbers (2j, 2j + 1) into a radius and an angle in [0, 2 pi), level l >= 2
// turns pairs of radii into a radius and an angle in [0, pi / 2]. Folding stops at level 4 (a radius for 16 numbers) or goes on
// to a single radius. Angles are codes of `first` bits at level 1 and `others` bits above.
//
// A token's codes are one string of bits, lowest first, in the order in which a single pass folds: the angle of a pair, and
// behind it those of all levels that it completes. Sixteen tokens are a tile: the string is cut into 32-bit words, and word w
// of the 16 tokens stands at byte 64 w of the tile, so a vector holds the same angles of 16 tokens; what is left of the string
// after its whole words follows bit by bit, 16 bits for the 16 tokens. After all tiles come the radii, ufloat16, one array of
// `tokens` for each group of numbers that has one. All numbers little-endian. A change needs a new codec version.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace kvant::kernels {

inline constexpr std::size_t kPolarTile = 16;   ///< tokens that lie together
inline constexpr std::size_t kPolarGroup = 16;  ///< numbers under an angle of level 4
inline constexpr std::uint32_t kPolarGroupLevels = 4;

/// The shape of polar codes.
struct PolarForm {
  std::uint32_t dim = 0;     ///< a multiple of 16, a power of two if `full`
  bool full = false;         ///< folded to one radius, not to one per 16 numbers
  std::uint32_t first = 0;   ///< bits of an angle of level 1, 2..5
  std::uint32_t others = 0;  ///< bits of an angle of a higher level, 1..4

  [[nodiscard]] constexpr std::size_t pairs() const noexcept { return dim / 2; }
  [[nodiscard]] constexpr std::size_t radii() const noexcept { return full ? 1 : dim / kPolarGroup; }
  /// Levels of folding.
  [[nodiscard]] constexpr std::uint32_t levels() const noexcept {
    return full ? static_cast<std::uint32_t>(std::bit_width(dim)) - 1 : kPolarGroupLevels;
  }
  /// Bits of a token's angles: each fold takes one radius away.
  [[nodiscard]] constexpr std::size_t code_bits() const noexcept { return pairs() * first + (pairs() - radii()) * others; }
  [[nodiscard]] constexpr std::size_t words() const noexcept { return code_bits() / 32; }
  [[nodiscard]] constexpr std::size_t tile_bytes() const noexcept { return kPolarTile * code_bits() / 8; }
  /// Bytes of the angles of a block; its radii begin here.
  [[nodiscard]] constexpr std::size_t codes_bytes(std::size_t tokens) const noexcept { return tokens * code_bits() / 8; }
  [[nodiscard]] constexpr std::size_t block_bytes(std::size_t tokens) const noexcept {
    return codes_bytes(tokens) + radii() * tokens * sizeof(std::uint16_t);
  }
};

/// The levels, from 2 on, that are complete once pair `pair` is: as many as its number has trailing ones.
constexpr std::uint32_t PolarFolds(const PolarForm& form, std::size_t pair) noexcept {
  const auto ones = static_cast<std::uint32_t>(std::countr_one(pair));
  return ones < form.levels() - 1 ? ones : form.levels() - 1;
}

/// `bits` bits from bit `position` on of the string of token `token` (0..15) of a tile. Slow: for decoding rows and references.
inline std::uint32_t PolarCodeAt(const PolarForm& form, const std::uint8_t* tile, std::size_t token, std::size_t position,
                                 std::uint32_t bits) noexcept {
  std::uint32_t code = 0;
  for (std::uint32_t b = 0; b < bits; ++b) {
    const std::size_t at = position + b;
    const std::size_t word =
        at / 32 < form.words() ? at / 32 * 64 + token * 4 + at % 32 / 8 : form.words() * 64 + at % 32 * 2 + token / 8;
    const std::size_t shift = at / 32 < form.words() ? at % 8 : token % 8;
    code |= (static_cast<std::uint32_t>(tile[word]) >> shift & 1U) << b;
  }
  return code;
}

}  // namespace kvant::kernels
