// Lloyd-Max codebooks (Lloyd 1982, Max 1960) from their laws, and the error that rotated Lloyd codes have. Slow (milliseconds
// to a second): for declared errors, calibration and tests; stored codes use the integer tables of kernels/lloyd/table.h.
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
  static HalfLaw Laplace();   ///< variance 1
  /// sqrt(dim) times a coordinate of a uniformly random unit vector of `dim` dims.
  static HalfLaw Sphere(std::uint32_t dim);

  /// Integral of density * x^power over [0, x].
  [[nodiscard]] double Moment(int power, double x) const;
  /// The density is 0 (or negligible) beyond.
  [[nodiscard]] double end() const noexcept { return end_; }

 private:
  HalfLaw(const std::function<double(double)>& density, double end);

  double end_;
  double step_;
  std::vector<double> density_;      ///< at i * step_
  std::vector<double> integral_[3];  ///< over [0, i * step_]
};

/// The optimal quantiser of 2^bits levels.
struct Codebook {
  std::vector<double> centroids;  ///< positive half, ascending
  double distortion = 0.0;        ///< E(x - Q(x))^2
};

/// Requires: bits in 1..8.
[[nodiscard]] Codebook LloydMax(const HalfLaw& law, std::uint32_t bits);

/// E|x - x'|^2 / |x|^2 of Lloyd codes with that scale, x uniformly rotated: exact means over the sphere, fluctuations of the
/// scale to first order in 1 / dim.
[[nodiscard]] double RotatedLloydError(const kernels::LloydTable& table, std::uint32_t dim, kernels::LloydScale scale);

}  // namespace kvant::quantizers
