// Keys as they were before their rotary positions.
#pragma once

#include <Eigen/Core>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "tools/kvantctl/calibration/head_rows.h"

namespace kvant::tools {

/// How a model turns the rows of a head.
class Turns {
 public:
  Turns(const RowsRope& rope, std::size_t dim);

  /// Pair p is real()[p] and imaginary()[p]: first those that RoPE turns, then the other channels in pairs of the same kind.
  [[nodiscard]] const std::vector<Eigen::Index>& real() const noexcept { return real_; }
  [[nodiscard]] const std::vector<Eigen::Index>& imaginary() const noexcept { return imaginary_; }
  [[nodiscard]] std::size_t turned() const noexcept { return radians_.size(); }

  /// Keys of contexts of `window` tokens, each from position 0 on, turned back; in double.
  [[nodiscard]] Matrix Undone(const Rows& keys, std::size_t window) const;

 private:
  std::vector<double> radians_;  // per token, of each pair that is turned
  double factor_;                // of cosines and sines
  std::vector<Eigen::Index> real_;
  std::vector<Eigen::Index> imaginary_;
};

/// Gains [dim] that keys are divided by and queries multiplied with: (K / Q)^(1/4) of each pair that RoPE turns, of each other
/// channel, K and Q the mean squares of keys within blocks and of queries; scaled so that keys keep their mean square. They
/// make keys and queries alike, and RoPE does not mind them. 1 where either is all zeros.
[[nodiscard]] Eigen::RowVectorXd PairGains(const Eigen::RowVectorXd& keys, const Eigen::RowVectorXd& queries,
                                           const Turns& turns);

}  // namespace kvant::tools
