// The codebooks of polar codes: fixed, so that blocks can be shared.
//
// A rotated row is as good as normal, and then angles are independent of each other and of the radius (Han et al., section 4):
// level 1 is uniform, and level l has the density sin(2 psi)^(2^(l-1) - 1) on [0, pi / 2]. Level 1 gets the centres of equal
// parts of the circle, the others the Lloyd-Max codebook of their density; boundaries are midpoints. Tests compute them afresh.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace kvant::kernels {

inline constexpr std::uint32_t kPolarMaxFirst = 5;   ///< bits of level 1
inline constexpr std::uint32_t kPolarMaxOthers = 4;  ///< bits of the levels above
inline constexpr std::uint32_t kPolarMaxLevel = 10;  ///< of rows of 1024 numbers
inline constexpr std::size_t kPolarPadded = 32;      ///< numbers of a table: all there are, repeated to fill vectors

/// The angles of one level. Part of the stored format.
struct PolarAngles {
  std::uint32_t count = 0;                                ///< 2^bits
  alignas(64) std::array<float, kPolarPadded> cosines{};  ///< of angle i % count
  alignas(64) std::array<float, kPolarPadded> sines{};
  /// Of boundary i, between angles i and i + 1 (level 1: the boundaries inside the first quadrant). (x, y) lies beyond it if
  /// y * cosine > x * sine.
  std::uint32_t boundaries = 0;
  std::array<float, kPolarPadded> boundary_cosines{};
  std::array<float, kPolarPadded> boundary_sines{};
  std::array<double, kPolarPadded> angles{};  ///< [count], for whoever computes errors
};

/// Level 1. Requires: 2 <= bits <= kPolarMaxFirst.
[[nodiscard]] const PolarAngles& PolarCircle(std::uint32_t bits) noexcept;
/// Level `level`. Requires: 2 <= level <= kPolarMaxLevel, 1 <= bits <= kPolarMaxOthers.
[[nodiscard]] const PolarAngles& PolarQuarter(std::uint32_t level, std::uint32_t bits) noexcept;

}  // namespace kvant::kernels
