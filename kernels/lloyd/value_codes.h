// How weighted sums walk a block of values: runs of up to kWeightRun tokens, 16 tokens (four quads) at a step.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvant::kernels {

/// Where a run's codes lie.
struct ValueCodes {
  const std::uint8_t* codes = nullptr;  ///< of the run's first supertile
  const std::uint8_t* tops = nullptr;   ///< 3 bits: of the top bits
  std::size_t tile_bytes = 0;           ///< of a supertile
  std::size_t steps = 0;

  /// Of a step's (first) supertile; with 4 bits a step has two, tile_bytes apart, with 1 bit half of one.
  template <std::uint32_t kBits>
  [[nodiscard]] const std::uint8_t* CodesAt(std::size_t step) const noexcept {
    return codes + (kBits == 4 ? 2 * step : kBits == 1 ? step / 2 : step) * tile_bytes;
  }
  /// 3 bits: of the supertile of top bits, half of which is the step's.
  [[nodiscard]] const std::uint8_t* TopsAt(std::size_t step) const noexcept { return tops + step / 2 * tile_bytes; }
};

}  // namespace kvant::kernels
