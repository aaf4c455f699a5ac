// Levels of trellis codes for numbers of standard deviation 1: trained on normal numbers with the encoder's own choices,
// rounded to signed bytes of at most 64, which every target multiplies as bytes (bytes/expander-inl.h). Part of the stored
// format.
#pragma once

#include <array>
#include <cstdint>

#include "kernels/lloyd/table.h"
#include "kernels/trellis/code.h"

namespace kvant::kernels {

inline constexpr int kTrellisLargest = 60;

struct TrellisTable {
  /// Of as many bits and the same unit: what queries, scales and rotations need to know. Its levels mean nothing here.
  LloydTable plain;
  /// [2^bits] levels of the positive half, ascending, in units of which `plain.unit` are a standard deviation.
  std::array<std::int16_t, 16> magnitudes{};

  /// Kernels look levels up by the low bits of bytes, whatever the bits above them are (expander-inl.h); which bits of a
  /// level's number stand where depends on the field. Up to 3 bits: four bits, of first and second fields, either in one table.
  /// 4 bits: five bits in the first table; the second is for those with the fifth bit set.
  alignas(64) std::array<std::array<std::int8_t, 64>, 2> look_up{};

  [[nodiscard]] constexpr std::uint32_t bits() const noexcept { return plain.bits; }
  [[nodiscard]] constexpr float unit() const noexcept { return plain.unit; }
  /// Of a level's number, in [0, 2^(bits + 1)).
  [[nodiscard]] constexpr int Level(std::uint32_t number) const noexcept {
    const std::uint32_t half = 1u << bits();
    return number >= half ? magnitudes[number - half] : -magnitudes[half - 1 - number];
  }
};

/// The table of 1 to 4 bits; null for any other number.
[[nodiscard]] const TrellisTable* FindTrellisTable(std::uint32_t bits) noexcept;

/// E|x - x'|^2 / |x|^2 of rows on the unit sphere that read back at the best scale, and at the unbiased one: measured, as no
/// formula is known (tests/kernels/trellis_error_test.cc measures them again).
struct TrellisError {
  double least_squares = 0;
  double unbiased = 0;
};
[[nodiscard]] TrellisError TrellisErrorOf(std::uint32_t bits, std::size_t dim) noexcept;

}  // namespace kvant::kernels
