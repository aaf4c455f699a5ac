// Rotary positions with the half-split pairing: numbers i and i + dim/2 of a row turn together.
#pragma once

#include <cstddef>

#include <Eigen/Core>

namespace kvant::examples {

/// Cosines and sines for a run of positions: [tokens, dim/2] each.
struct RopeTable {
  RopeTable(std::size_t first_position, std::size_t tokens, std::size_t dim, double theta);

  /// Turns one row of `dim` numbers to the position of token `token` of the run; `to` may be `from`.
  void Rotate(std::size_t token, const float* from, float* to) const;

  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> cosines;
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> sines;
};

}  // namespace kvant::examples
