#include "tools/kvantctl/calibration/gauge.h"

#include <Eigen/Dense>
#include <cmath>

namespace kvant::tools {
namespace {

constexpr double kShrinkage = 0.02;        // few tokens leave small eigenvalues uncertain
constexpr double kLeastEigenvalue = 1e-9;  // of the largest

/// A function of a symmetric matrix, by its eigenvalues.
Matrix Power(const Matrix& matrix, double exponent) {
  const Eigen::SelfAdjointEigenSolver<Matrix> solver((matrix + matrix.transpose()) / 2);
  const double least = kLeastEigenvalue * solver.eigenvalues().maxCoeff();
  const Eigen::VectorXd powers = solver.eigenvalues().cwiseMax(least).array().pow(exponent);
  const Matrix power = solver.eigenvectors() * powers.asDiagonal() * solver.eigenvectors().transpose();
  return (power + power.transpose()) / 2;
}

Matrix Shrunk(const Matrix& moment) {
  const auto dim = moment.rows();
  return (1 - kShrinkage) * moment + kShrinkage * moment.trace() / static_cast<double>(dim) * Matrix::Identity(dim, dim);
}

}  // namespace

Gauge GaugeOf(const Matrix& keys, const Matrix& queries, double share) {
  const Matrix identity = Matrix::Identity(keys.rows(), keys.rows());
  if (!(keys.trace() > 0) || !(queries.trace() > 0)) return {identity, identity};
  const Matrix shrunk = Shrunk(keys), root = Power(shrunk, 0.5), inverse_root = Power(shrunk, -0.5);
  const Matrix mean = root * Power(inverse_root * Shrunk(queries).inverse() * inverse_root, 0.5) * root;
  const Matrix transform = Power(mean, -0.5 * share), inverse = Power(mean, 0.5 * share);
  const double scale = std::sqrt(keys.trace() / (transform * keys * transform).trace());
  return {transform * scale, inverse / scale};
}

}  // namespace kvant::tools
