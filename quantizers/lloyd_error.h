// The error that rotated Lloyd codes have, from the law of a rotated row's numbers. Slow: milliseconds.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "kernels/lloyd/encode.h"
#include "kernels/lloyd/table.h"

namespace kvant::quantizers {

/// A symmetric law by the positive half of its density, with the integrals of density * x^k, k = 0..2, over [0, x].
class HalfLaw {
 public:
  static HalfLaw Gaussian();  ///< standard normal
  /// sqrt(dim) times a coordinate of a uniformly random unit vector of `dim` dims.
  static HalfLaw Sphere(std::uint32_t dim);

  /// `density` is negligible beyond `end`.
  HalfLaw(const std::function<double(double)>& density, double end);

  /// Integral of density * x^power over [0, x].
  [[nodiscard]] double Moment(int power, double x) const;
  /// The density is 0 (or negligible) beyond.
  [[nodiscard]] double end() const noexcept { return end_; }

 private:
  double end_;
  double step_;
  std::vector<double> density_;      ///< at i * step_
  std::vector<double> integral_[3];  ///< over [0, i * step_]
};

/// E|x - x'|^2 / |x|^2 of Lloyd codes with that scale, x uniformly rotated: exact means over the sphere, fluctuations of the
/// scale to first order in 1 / dim.
[[nodiscard]] double RotatedLloydError(const kernels::LloydTable& table, std::uint32_t dim, kernels::LloydScale scale);

/// The same of codes of `table` of which the first planes are read with those levels (kernels/lloyd/plane_table.h). Exact
/// means; fluctuations of the scale, which all planes chose, are left out: at 128 dims they are
/// 1 % of the error for one plane of two bits, 0.3 % at most for others.
[[nodiscard]] double RotatedPlanesError(const kernels::LloydTable& table, const kernels::LloydTable& levels, std::uint32_t dim,
                                        kernels::LloydScale scale);

}  // namespace kvant::quantizers
