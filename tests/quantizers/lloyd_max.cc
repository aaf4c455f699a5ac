#include "tests/quantizers/lloyd_max.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace kvant::quantizers::test {

Codebook LloydMax(const HalfLaw& law, std::uint32_t bits) {
  const std::size_t n = std::size_t{1} << (bits - 1);
  // Start near the optimum: point density proportional to the density's cube root (Panter and Dite 1951).
  std::vector<double> centroids(n);
  {
    constexpr int kSteps = 4096;
    std::vector<double> mass(kSteps + 1, 0.0);
    const double h = law.end() / kSteps;
    for (int i = 0; i < kSteps; ++i) {
      const double density = (law.Moment(0, (i + 1) * h) - law.Moment(0, i * h)) / h;
      mass[static_cast<std::size_t>(i) + 1] = mass[static_cast<std::size_t>(i)] + std::cbrt(std::max(density, 0.0));
    }
    for (std::size_t k = 0; k < n; ++k) {
      const double target = mass[kSteps] * (static_cast<double>(k) + 0.5) / static_cast<double>(n);
      centroids[k] = h * static_cast<double>(std::lower_bound(mass.begin(), mass.end(), target) - mass.begin());
    }
  }
  const auto edge = [&](const std::vector<double>& c, std::size_t i) {
    return i == 0 ? 0.0 : i == n ? law.end() : 0.5 * (c[i - 1] + c[i]);
  };
  const auto mean = [&](double a, double b) {
    return (law.Moment(1, b) - law.Moment(1, a)) / (law.Moment(0, b) - law.Moment(0, a));
  };
  // Lloyd's iteration, over-relaxed; a step that breaks the order falls back to the plain one.
  std::vector<double> plain(n), relaxed(n);
  for (int iteration = 0; iteration < 200000; ++iteration) {
    double change = 0.0;
    for (std::size_t i = 0; i < n; ++i) {
      plain[i] = mean(edge(centroids, i), edge(centroids, i + 1));
      change = std::max(change, std::fabs(plain[i] - centroids[i]));
      relaxed[i] = centroids[i] + 1.9 * (plain[i] - centroids[i]);
    }
    const bool ordered = iteration >= 50 && relaxed[0] > 0.0 && std::ranges::is_sorted(relaxed);
    centroids = ordered ? relaxed : plain;
    if (change < 1e-11) break;
  }
  Codebook book{centroids, 0.0};
  for (std::size_t i = 0; i < n; ++i) {
    const double a = edge(centroids, i), b = edge(centroids, i + 1), c = centroids[i];
    const auto over = [&](int k) { return law.Moment(k, b) - law.Moment(k, a); };
    book.distortion += 2.0 * (over(2) - 2.0 * c * over(1) + c * c * over(0));
  }
  return book;
}

HalfLaw LaplaceLaw() {
  return HalfLaw([](double x) { return std::exp(-std::numbers::sqrt2 * x) / std::numbers::sqrt2; }, 32.0);
}

}  // namespace kvant::quantizers::test
