#include "tools/kvantctl/calibration/spectral.h"

#include <Eigen/Dense>
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <numeric>

#include "quantizers/water_filling.h"

namespace kvant::tools {
namespace {

constexpr double kLeastVariance = 1e-9;  // of the largest
constexpr std::size_t kRun = 8;          // directions with the same bits

constexpr std::array<std::uint32_t, 6> kBits{0, 1, 2, 3, 4, 8};  // that a direction may have

}  // namespace

Directions DirectionsOf(const Matrix& covariance) {
  const Eigen::SelfAdjointEigenSolver<Matrix> solver(covariance);
  const double least = std::max(kLeastVariance * solver.eigenvalues().maxCoeff(), 1e-30);
  Directions out{solver.eigenvectors().rowwise().reverse().transpose(),
                 solver.eigenvalues().reverse().cwiseMax(least).cwiseSqrt()};
  for (Eigen::Index i = 0; i < out.basis.rows(); ++i) {
    Eigen::Index largest = 0;
    out.basis.row(i).cwiseAbs().maxCoeff(&largest);
    if (out.basis(i, largest) < 0) out.basis.row(i) *= -1;
  }
  return out;
}

std::vector<std::uint8_t> WaterFill(const Eigen::VectorXd& losses, double mean_bits) {
  const auto count = static_cast<std::size_t>(losses.size());
  std::vector<Eigen::Index> order(count);
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](Eigen::Index a, Eigen::Index b) { return losses(a) > losses(b); });
  std::vector<double> weights;
  for (const Eigen::Index i : order) weights.push_back(losses(i));
  const std::vector<std::uint32_t> filled =
      quantizers::FillBits({.weights = weights,
                            .errors = quantizers::LloydErrors(),
                            .allowed = kBits,
                            .bits = static_cast<std::size_t>(mean_bits * static_cast<double>(count)),
                            .run = kRun});
  std::vector<std::uint8_t> bits(count);
  for (std::size_t i = 0; i < count; ++i) bits[static_cast<std::size_t>(order[i])] = static_cast<std::uint8_t>(filled[i]);
  return bits;
}

}  // namespace kvant::tools
