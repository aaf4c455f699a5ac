// Integer codebooks for numbers of standard deviation 1, scaled to `unit` codebook units. Part of the stored format.
// The positive half is listed; the codebook is symmetric. The real Lloyd-Max codebook (Lloyd 1982, Max 1960) divided by these
// is constant within rounding: what rounding costs is below 0.1 % of the distortion up to 4 bits, 1.4 % at 8 bits. Up to 4 bits
// centroids are signed bytes, from 5 bits on they have 12 bits: bytes would cost more than a step of rounding queries does.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace kvant::kernels {

/// The largest centroid of Lloyd's own tables; with 12 bits, of that of 8 bits.
constexpr int LloydLargest(std::uint32_t bits) noexcept {
  return bits == 1 ? 1 : bits == 2 ? 10 : bits == 3 ? 88 : bits == 4 ? 104 : 2046;
}

/// Whether centroids have 12 bits, and meet 16-bit queries and weights.
constexpr bool LloydHasWords(std::uint32_t bits) noexcept { return bits > 4; }

/// The largest magnitude that scores and weighted sums take at this number of bits, from any table.
constexpr int LloydLimit(std::uint32_t bits) noexcept { return bits <= 2 ? 64 : LloydLargest(bits); }

struct LloydTable {
  std::uint32_t bits = 0;
  float unit = 0.0f;  ///< codebook units per standard deviation: minimises E(z - c / unit)^2 over N(0, 1)
  /// [2^(bits-1)] centroids of the positive half, ascending, at most 127 (words: 2047).
  std::array<std::int16_t, 128> magnitudes{};
  /// [2^(bits-1) - 1] in codebook units: |z| >= thresholds[i] has at least magnitude i + 1. Midpoints (words: rounded up).
  std::array<float, 128> thresholds{};
  /// Words only: the magnitude's index of floor(|z|), for |z| in [0, 2048).
  std::array<std::uint8_t, 2048> grid{};

  /// Up to 4 bits: nibbles[f][n] is the centroid of field f (of `bits` bits; 3 bits: the low ones) of the nibble n.
  alignas(64) std::array<std::array<std::int8_t, 16>, 4> nibbles{};

  /// Up to 4 bits: sixes[f][n] is the centroid of field f of the six bits n; with 3 bits only f = 0, of the lowest three.
  alignas(64) std::array<std::array<std::int8_t, 64>, 6> sixes{};

  /// Words only: the centroid of each byte whose top bits are an index, whatever the bits below it are.
  alignas(64) std::array<std::int16_t, 256> centroids{};
  /// Words only: how many bits of that byte are looked up, and the two bytes of the centroids by a byte's lowest bits: entry n
  /// is that of n << (8 - index_bits).
  std::uint32_t index_bits = 0;
  alignas(64) std::array<std::uint8_t, 256> low_bytes{};
  alignas(64) std::array<std::uint8_t, 256> high_bytes{};

  [[nodiscard]] constexpr std::uint32_t half() const noexcept { return 1u << (bits - 1); }
  /// The centroid of a code.
  [[nodiscard]] constexpr int Centroid(std::uint32_t index) const noexcept {
    return index >= half() ? magnitudes[index - half()] : -magnitudes[half() - 1 - index];
  }
};

/// The table of 1 to 8 bits; null for any other number.
[[nodiscard]] const LloydTable* FindLloydTable(std::uint32_t bits) noexcept;

/// A table of other levels: 2^(bits-1) magnitudes, ascending, the first perhaps 0, at most LloydLimit. `unit` says what they
/// are worth: a magnitude m stands for m / unit standard deviations. Requires: bits is in 1..8.
[[nodiscard]] LloydTable MakeLloydTable(std::uint32_t bits, float unit, std::span<const std::int16_t> magnitudes) noexcept;
/// With words whose lowest bits do not matter: as many centroids are equal.
[[nodiscard]] LloydTable MakeLloydTable(std::uint32_t bits, float unit, std::span<const std::int16_t> magnitudes,
                                        std::uint32_t index_bits) noexcept;

}  // namespace kvant::kernels
