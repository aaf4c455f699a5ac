#include "tools/kvantctl/calibration/turns.h"

#include <algorithm>
#include <cmath>

#include "quantizers/rope_pairs.h"

namespace kvant::tools {
namespace {

constexpr double kLeastShare = 1e-6;  // of the largest pair's mean square: quieter ones count as that quiet

/// Both channels of a pair have the mean of both.
Eigen::RowVectorXd OfPairs(Eigen::RowVectorXd squares, const Turns& turns) {
  for (std::size_t p = 0; p < turns.turned(); ++p) {
    double &a = squares(turns.real()[p]), &b = squares(turns.imaginary()[p]);
    a = b = (a + b) / 2;
  }
  return squares;
}

}  // namespace

Turns::Turns(const RowsRope& rope, std::size_t dim) : radians_(rope.radians_per_token), factor_(rope.attention_factor) {
  const std::vector<std::uint16_t> places = quantizers::PlanarPlaces(rope.spec, dim);
  real_.assign(places.begin(), places.begin() + static_cast<std::ptrdiff_t>(dim / 2));
  imaginary_.assign(places.begin() + static_cast<std::ptrdiff_t>(dim / 2), places.end());
}

Matrix Turns::Undone(const Rows& keys, std::size_t window) const {
  Matrix plain = keys.cast<double>();
  for (Eigen::Index token = 0; token < plain.rows(); ++token) {
    const double position = static_cast<double>(static_cast<std::size_t>(token) % window);
    for (std::size_t p = 0; p < turned(); ++p) {
      const double c = std::cos(position * radians_[p]) / factor_, s = std::sin(position * radians_[p]) / factor_;
      double &a = plain(token, real_[p]), &b = plain(token, imaginary_[p]);
      const double real = a * c + b * s;
      b = b * c - a * s;
      a = real;
    }
  }
  return plain;
}

Eigen::RowVectorXd PairGains(const Eigen::RowVectorXd& keys, const Eigen::RowVectorXd& queries, const Turns& turns) {
  const auto floored = [&](const Eigen::RowVectorXd& squares) {
    const Eigen::RowVectorXd pairs = OfPairs(squares, turns);
    return Eigen::RowVectorXd(pairs.cwiseMax(kLeastShare * pairs.maxCoeff()));
  };
  if (!(keys.maxCoeff() > 0) || !(queries.maxCoeff() > 0)) return Eigen::RowVectorXd::Ones(keys.size());
  const Eigen::ArrayXXd k = floored(keys).array(), q = floored(queries).array();
  const Eigen::ArrayXXd gains = (k / q).pow(0.25);
  return (gains * std::sqrt((k / gains.square()).sum() / k.sum())).matrix();
}

}  // namespace kvant::tools
