#include "quantizers/range_error.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace kvant::quantizers {
namespace {

double Density(double x) { return std::exp(-x * x / 2) / std::sqrt(2 * std::numbers::pi); }
double Below(double x) { return 0.5 * std::erfc(-x * std::numbers::sqrt2 / 2); }

/// The integral of (x - nearest level)^2 times the normal density over [low, low + range], levels at both ends.
double ErrorWithin(double low, double range, std::uint32_t levels) {
  const double step = range / (levels - 1);
  double sum = 0, from = low, density = Density(low), below = Below(low);
  for (std::uint32_t k = 0; k < levels; ++k) {
    const double level = low + k * step, to = std::min(low + range, level + step / 2);
    const double next_density = Density(to), next_below = Below(to);
    // The moments of the normal density: of x it is -density, of x^2 below - x density.
    sum += (1 + level * level) * (next_below - below) - (to * next_density - from * density) +
           2 * level * (next_density - density);
    from = to;
    density = next_density;
    below = next_below;
  }
  return sum;
}

}  // namespace

double RangeError(std::size_t n, std::uint32_t bits) {
  // Over minimum a and range w, whose joint density is n (n - 1) f(a) f(a + w) P^(n-2), P = F(a + w) - F(a): the two ends have
  // no error, the n - 2 others that of normal numbers within [a, a + w]. Midpoint rule; the integrand vanishes smoothly.
  constexpr double kStep = 0.1;
  const auto count = static_cast<double>(n);
  const std::uint32_t levels = 1u << bits;
  double sum = 0;
  for (double a = -7 + kStep / 2; a < 3; a += kStep) {
    for (double w = kStep / 2; w < 12; w += kStep) {
      const double within = Below(a + w) - Below(a);
      const double density = count * (count - 1) * Density(a) * Density(a + w) * std::pow(within, count - 3);
      if (density < 1e-14) continue;
      // From 4 bits on errors are uniform over a step within 2e-4.
      const double error = bits < 4 ? ErrorWithin(a, w, levels) : within * (w / (levels - 1)) * (w / (levels - 1)) / 12;
      sum += density * error;
    }
  }
  return sum * kStep * kStep * (count - 2) / count;
}

}  // namespace kvant::quantizers
