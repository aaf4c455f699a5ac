// Rotary positions with the half-split pairing: numbers i and i + pairs of a row turn together.
#pragma once

#include <cstddef>

#include <Eigen/Core>

#include <kvant/rope.h>

namespace kvant::examples {

/// Cosines and sines for a run of positions, times the attention factor: [tokens, pairs] each.
struct RopeTable {
  RopeTable(std::size_t first_position, std::size_t tokens, const RopeFrequencies& frequencies);

  /// Turns one row of `dim` numbers to the position of token `token` of the run; numbers beyond the pairs are copied. `to` may
  /// be `from`.
  void Rotate(std::size_t token, const float* from, std::size_t dim, float* to) const;

  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> cosines;
  Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> sines;
};

}  // namespace kvant::examples
