#include "quantizers/lloyd_error.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace kvant::quantizers {
namespace {

constexpr int kCells = 4096;

constexpr double Power(double x, int k) { return k == 0 ? 1.0 : k == 1 ? x : x * x; }

/// E f(magnitude of z) over both halves, f given per cell as weights of the cell's moments 0, 1 and 2.
template <class PerCell>
double Expect(const HalfLaw& law, const kernels::LloydTable& table, PerCell per_cell) {
  double sum = 0.0;
  for (std::uint32_t i = 0; i < table.half(); ++i) {
    const double low = i == 0 ? 0.0 : table.thresholds[i - 1] / static_cast<double>(table.unit);
    const double high = i + 1 == table.half() ? law.end() : table.thresholds[i] / static_cast<double>(table.unit);
    double moments[3];
    for (int k = 0; k < 3; ++k) moments[k] = law.Moment(k, std::min(high, law.end())) - law.Moment(k, std::min(low, law.end()));
    sum += 2.0 * per_cell(static_cast<double>(table.magnitudes[i]), moments, low, high);
  }
  return sum;
}

/// Integral of x^3 over the normal density on [a, b].
double NormalThird(double a, double b) {
  const auto lower = [](double x) { return (x * x + 2.0) * std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::numbers::pi); };
  return lower(a) - lower(b);
}

}  // namespace

HalfLaw::HalfLaw(const std::function<double(double)>& density, double end)
    : end_(end), step_(end / kCells), density_(kCells + 1) {
  std::vector<double> middle(kCells);
  for (int i = 0; i <= kCells; ++i) density_[static_cast<std::size_t>(i)] = density(i * step_);
  for (int i = 0; i < kCells; ++i) middle[static_cast<std::size_t>(i)] = density((i + 0.5) * step_);
  for (int k = 0; k < 3; ++k) {
    integral_[k].assign(kCells + 1, 0.0);
    for (int i = 0; i < kCells; ++i) {  // Simpson's rule on each cell
      const double a = i * step_, m = a + 0.5 * step_, b = a + step_;
      const auto n = static_cast<std::size_t>(i);
      const double sum = density_[n] * Power(a, k) + 4.0 * middle[n] * Power(m, k) + density_[n + 1] * Power(b, k);
      integral_[k][n + 1] = integral_[k][n] + step_ / 6.0 * sum;
    }
  }
}

HalfLaw HalfLaw::Gaussian() {
  return HalfLaw([](double x) { return std::exp(-0.5 * x * x) / std::sqrt(2.0 * std::numbers::pi); }, 12.0);
}

HalfLaw HalfLaw::Sphere(std::uint32_t dim) {
  const double d = dim;
  const double log_norm = std::lgamma(0.5 * d) - std::lgamma(0.5 * (d - 1.0)) - 0.5 * std::log(std::numbers::pi * d);
  const double end = std::min(std::sqrt(d), 12.0);
  return HalfLaw([=](double x) { return std::exp(log_norm + 0.5 * (d - 3.0) * std::log(std::max(1.0 - x * x / d, 1e-300))); },
                 end);
}

double HalfLaw::Moment(int power, double x) const {
  const double at = std::min(x / step_, static_cast<double>(kCells));
  const auto i = std::min(static_cast<std::size_t>(at), static_cast<std::size_t>(kCells - 1));
  // Cubic Hermite: the integrals' slopes are the integrands.
  const double t = at - static_cast<double>(i);
  const double a = static_cast<double>(i) * step_, b = a + step_;
  const double slope_a = density_[i] * Power(a, power) * step_, slope_b = density_[i + 1] * Power(b, power) * step_;
  const double from = integral_[power][i], rise = integral_[power][i + 1] - from;
  return from + t * (slope_a + t * (3.0 * rise - 2.0 * slope_a - slope_b + t * (slope_a + slope_b - 2.0 * rise)));
}

double RotatedLloydError(const kernels::LloydTable& table, std::uint32_t dim, kernels::LloydScale scale) {
  // With x = mean(z c) and y = mean(c^2) over the dims of a row, z its normalised numbers, cos^2 = x^2 / y.
  const HalfLaw sphere = HalfLaw::Sphere(dim);
  const double x = Expect(sphere, table, [](double c, const double* m, double, double) { return c * m[1]; });
  const double y = Expect(sphere, table, [](double c, const double* m, double, double) { return c * c * m[0]; });
  const double unit = table.unit;
  if (scale == kernels::LloydScale::kRaw) return 1.0 - 2.0 * x / unit + y / (unit * unit);
  // Fluctuations of x and y at fixed norm: normal moments with the regression on z^2 taken out.
  const HalfLaw normal = HalfLaw::Gaussian();
  const auto expect = [&](auto per_cell) { return Expect(normal, table, per_cell); };
  const double zc = expect([](double c, const double* m, double, double) { return c * m[1]; });
  const double cc = expect([](double c, const double* m, double, double) { return c * c * m[0]; });
  const double zzcc = expect([](double c, const double* m, double, double) { return c * c * m[2]; });
  const double zccc = expect([](double c, const double* m, double, double) { return c * c * c * m[1]; });
  const double cccc = expect([](double c, const double* m, double, double) { return c * c * c * c * m[0]; });
  const double zzzc = expect([](double c, const double*, double a, double b) { return c * NormalThird(a, b); });
  const double slope_x = zzzc - zc, slope_y = zzcc - cc;
  const double var_x = zzcc - zc * zc - 0.5 * slope_x * slope_x;
  const double var_y = cccc - cc * cc - 0.5 * slope_y * slope_y;
  const double cov = zccc - zc * cc - 0.5 * slope_x * slope_y;
  const double cosine2 = x * x / y + (var_x / y - 2.0 * x * cov / (y * y) + x * x * var_y / (y * y * y)) / dim;
  const double by_x = 2.0 * x / y, by_y = -x * x / (y * y);
  const double variance = (by_x * by_x * var_x + 2.0 * by_x * by_y * cov + by_y * by_y * var_y) / dim;
  switch (scale) {
    case kernels::LloydScale::kNormCorrected: {
      const double cosine = std::sqrt(cosine2) - variance / (8.0 * std::pow(cosine2, 1.5));
      return 2.0 * (1.0 - cosine);
    }
    case kernels::LloydScale::kUnbiased: return 1.0 / cosine2 + variance / (cosine2 * cosine2 * cosine2) - 1.0;
    default: return 1.0 - cosine2;
  }
}

double RotatedPlanesError(const kernels::LloydTable& table, const kernels::LloydTable& levels, std::uint32_t dim,
                          kernels::LloydScale scale) {
  const HalfLaw sphere = HalfLaw::Sphere(dim);
  double zc = 0, cc = 0, zl = 0, ll = 0;  // c of all planes, l of those that are read, in standard deviations
  std::uint32_t i = 0;
  Expect(sphere, table, [&](double magnitude, const double* m, double, double) {
    const double c = magnitude / double{table.unit};
    const double l = levels.magnitudes[i++ * levels.half() / table.half()] / double{levels.unit};
    zc += 2 * c * m[1], cc += 2 * c * c * m[0], zl += 2 * l * m[1], ll += 2 * l * l * m[0];
    return 0.0;
  });
  double stored = 1;
  if (scale == kernels::LloydScale::kNormCorrected) stored = 1 / std::sqrt(cc);
  if (scale == kernels::LloydScale::kLeastSquares) stored = zc / cc;
  if (scale == kernels::LloydScale::kUnbiased) stored = 1 / zc;
  return 1 - 2 * stored * zl + stored * stored * ll;
}

}  // namespace kvant::quantizers
