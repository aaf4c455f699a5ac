// How weighted sums walk a block of values: runs of up to kLloydWeightRun tokens, 16 tokens (four quads) at a step.
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
};

}  // namespace kvant::kernels
