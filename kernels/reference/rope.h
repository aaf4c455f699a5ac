// Scalar twin of kernels/rope.h: every angle afresh, in double.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include <kvant/store_spec.h>

namespace kvant::kernels::reference {

inline void Rotate(const RopeSpec& spec, std::size_t head_dim, double* row, std::uint64_t position) {
  if (spec.pairing == RopePairing::kNone) return;
  const std::size_t dims = spec.rotary_dims == 0 ? head_dim : spec.rotary_dims;
  for (std::size_t p = 0; p < dims / 2; ++p) {
    const double angle =
        static_cast<double>(position) * std::pow(spec.theta, -2.0 * static_cast<double>(p) / static_cast<double>(dims));
    double& x = row[spec.pairing == RopePairing::kAdjacent ? 2 * p : p];
    double& y = row[spec.pairing == RopePairing::kAdjacent ? 2 * p + 1 : p + dims / 2];
    const double turned = x * std::cos(angle) - y * std::sin(angle);
    y = x * std::sin(angle) + y * std::cos(angle);
    x = turned;
  }
}

}  // namespace kvant::kernels::reference
