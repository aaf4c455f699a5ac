// Lloyd-Max codebooks (Lloyd 1982, Max 1960) from their laws: what the integer tables of kernels/lloyd/table.h are held
// against.
#pragma once

#include <cstdint>
#include <vector>

#include "quantizers/lloyd_error.h"

namespace kvant::quantizers::test {

/// The optimal quantiser of 2^bits levels.
struct Codebook {
  std::vector<double> centroids;  ///< positive half, ascending
  double distortion = 0.0;        ///< E(x - Q(x))^2
};

/// Requires: bits in 1..8. Takes up to a second.
[[nodiscard]] Codebook LloydMax(const HalfLaw& law, std::uint32_t bits);

/// Of variance 1.
[[nodiscard]] HalfLaw LaplaceLaw();

}  // namespace kvant::quantizers::test
