// How lloyd_encode rotates and rounds rows in 16-bit integers, whose sums are exact in any order. Part of the stored format.
// Used for up to 4 bits at 64, 128 and 256 dims from two rounds on; everything else is rotated in floats.
//
//  1. A row (its mean subtracted, times the first round's signs) becomes integers x / 2^k of norm B/2 to B.
//  2. A round is a Walsh-Hadamard transform without a factor. No number exceeds the vector's norm; B is chosen so that
//     16 bits hold it.
//  3. Between rounds numbers are multiplied by 15-bit fractions that hold the next signs and bring the norm back. The first
//     of these divide by the row's norm, so from there on all rows have the same.
//  4. The last round's norm makes a standard deviation 256 * kGridSteps. Its sums saturate, in a fixed order: the upper
//     distances first. 128 added to its number 0 is 128 added to every output, so that >> 8 rounds to nearest steps.
//  5. Codes are looked up from these steps, at most 127; scales come from integer sums over them.
//
// At 128 dims rounding costs less than 1e-5 of the squared norm, and the grid at most 0.2 % of the distortion (at 4 bits).
#pragma once

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/lloyd/table.h"
#include "kernels/rotation/hadamard.h"

namespace kvant::kernels {

/// Steps of the grid per standard deviation, by the number of bits: among those that let 127 steps hold 4.3 deviations, the one
/// whose half steps lie closest to the thresholds.
inline constexpr double kGridSteps[] = {0, 29.0, 29.03, 28.94, 29.45};
inline constexpr std::size_t kGridSize = 128;

/// Rows that the integer encoder works on at once.
inline constexpr std::size_t kIntegerRows = 32;
inline constexpr std::size_t kMaxIntegerDim = 256;

/// Per number of grid steps: the index of the nearest centroid's magnitude.
using LloydGrid = std::array<std::uint8_t, kGridSize>;

constexpr LloydGrid MakeLloydGrid(const LloydTable& table) noexcept {
  LloydGrid levels{};
  std::size_t step = 0;
  for (std::uint8_t level = 0; level < table.half(); ++level) {
    const bool top = level + 1u == table.half();
    const double end =
        top ? kGridSize
            : static_cast<double>(table.thresholds[level]) * kGridSteps[table.bits] / static_cast<double>(table.unit);
    for (; static_cast<double>(step) < end; ++step) levels[step] = level;
  }
  return levels;
}

[[nodiscard]] constexpr bool RotatesInIntegers(const LloydTable& table, const HadamardShape& shape,
                                               std::size_t rounds) noexcept {
  return table.bits <= 4 && shape.core == 1 && shape.dim >= 64 && shape.dim <= kMaxIntegerDim && rounds >= 2;
}

/// Factors of the integer rotation, computed from correctly rounded operations only.
struct IntegerRotation {
  float inverse_limit2 = 0;  ///< 1 / B^2, rounded up
  float first = 0;           ///< times 2^k / |x|: the factor after the first round
  std::int16_t middle = 0;   ///< after later rounds but the last two
  std::int16_t last = 0;     ///< before the last round, unless that is the second
  float rounding = 0;        ///< what rounding to the grid multiplies <z, c> / |z| with (Sheppard's correction)

  IntegerRotation(std::uint32_t bits, std::uint32_t dim, std::size_t rounds) noexcept {
    const double steps = kGridSteps[bits];
    rounding = static_cast<float>(1.0 + 1.0 / (24.0 * steps * steps));
    const double root = std::sqrt(static_cast<double>(dim));
    // What rounding all numbers adds to a norm is at most root / 2. One in 128 is room for the factors' own rounding.
    const double limit = 32767.0 / root * (127.0 / 128.0) - root / 2;
    const double final_norm = steps * 256;
    double norm = limit / (1.0 + root / limit);
    inverse_limit2 = static_cast<float>((1.0 + 0x1p-20) / (limit * limit));
    first = static_cast<float>(32768.0 / root * (rounds == 2 ? final_norm : norm));
    const double shrink = limit / (limit + root / 2);
    middle = static_cast<std::int16_t>(32768.0 / root * shrink);
    for (std::size_t round = 3; round < rounds; ++round) norm *= static_cast<double>(middle) * root / 32768.0;
    last = static_cast<std::int16_t>(std::floor(32768.0 / root * final_norm / norm + 0.5));
  }
};

/// k of the 2^k that a row is divided by before it becomes integers, the least with |x| < B * 2^k, from the bits of the float
/// |x|^2 / B^2. Requires: a normal number.
constexpr int PowerOfRatio(std::uint32_t ratio_bits) noexcept { return (static_cast<int>(ratio_bits >> 23) - 127 + 2) >> 1; }

}  // namespace kvant::kernels
