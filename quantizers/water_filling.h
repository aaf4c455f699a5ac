// How many bits each of many parts should get: reverse water-filling (Cover and Thomas, 10.3.3) in whole bits, on the errors
// that codes really have instead of the law 4^-bits. For directions of a spectral code, channels, heads, layers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace kvant::quantizers {

/// E(x - x')^2 of Lloyd-Max codes for N(0, 1), at 0 to 8 bits (codecs.md 2.1).
[[nodiscard]] std::span<const double> LloydErrors() noexcept;

struct WaterFilling {
  /// What one unit of relative error of a part costs: its variance times how much it matters. Finite, >= 0.
  std::span<const double> weights;
  /// errors[b]: relative error at b bits, falling. Bit counts that do not exist are left out by `allowed`.
  std::span<const double> errors;
  /// The bit counts that a part may have, ascending, from 0 on (below errors.size()). Empty: all of `errors`.
  std::span<const std::uint32_t> allowed = {};
  std::size_t bits = 0;  ///< all parts together have at most this many
  /// Parts that must have the same number of bits lie in runs of this many, heaviest first: codes come in layouts of eight.
  std::size_t run = 1;
};

/// Bits of each part, minimising the sum of weight * error: the step that saves most per bit is taken, as long as it fits, ties
/// to the lower index. The least possible sum for its number of bits where the errors are convex in the bits, as those of Lloyd
/// codes are. The same on every machine.
[[nodiscard]] std::vector<std::uint32_t> FillBits(const WaterFilling& what);

}  // namespace kvant::quantizers
