// The directions of rows, and bits for each: what the codec `spectral` is made from.
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <vector>

#include "tools/kvantctl/calibration/head_rows.h"

namespace kvant::tools {

struct Directions {
  Matrix basis;  ///< orthonormal rows, those of the largest deviation first; the largest number of each is positive
  Eigen::VectorXd deviations;  ///< of rows along them
};

/// The principal directions of a covariance.
[[nodiscard]] Directions DirectionsOf(const Matrix& covariance);

/// Bits of each direction, 0 to 4 or 8 and `mean_bits` on average at most, by quantizers::FillBits from losses[i], variance
/// times weight. Eight directions at a time have the same bits, as layouts of codes want it. Requires: a multiple of eight
/// directions, mean_bits >= 0.
[[nodiscard]] std::vector<std::uint8_t> WaterFill(const Eigen::VectorXd& losses, double mean_bits);

}  // namespace kvant::tools
