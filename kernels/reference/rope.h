// Scalar twin of kernels/rope.h: every angle afresh, in double.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include <kvant/rope.h>

#include "kernels/rope_frequencies.h"

namespace kvant::kernels::reference {

/// Turns one row of head_dim numbers to `position`. Requires: ComputeRopeFrequencies accepts the spec.
inline void Rotate(const RopeSpec& spec, std::size_t head_dim, double* row, std::uint64_t position) {
  const RopeFrequencies frequencies = ComputeRopeFrequencies(spec, static_cast<std::uint32_t>(head_dim)).value();
  const std::size_t pairs = frequencies.radians_per_token.size();
  for (std::size_t p = 0; p < pairs; ++p) {
    const double angle = static_cast<double>(position) * frequencies.radians_per_token[p];
    const double c = frequencies.attention_factor * std::cos(angle);
    const double s = frequencies.attention_factor * std::sin(angle);
    double& x = row[spec.pairing == RopePairing::kAdjacent ? 2 * p : p];
    double& y = row[spec.pairing == RopePairing::kAdjacent ? 2 * p + 1 : p + pairs];
    const double turned = x * c - y * s;
    y = x * s + y * c;
    x = turned;
  }
}

}  // namespace kvant::kernels::reference
