#include "tools/kvantctl/rows/gauge.h"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

namespace kvant::tools {
namespace {

using Matrix = Eigen::MatrixXd;
using Rows = Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;

constexpr std::size_t kBlockTokens = 128;  // as most plans have it
constexpr std::size_t kSinkTokens = 4;
constexpr double kShrinkage = 0.02;
constexpr double kLeastEigenvalue = 1e-9;  // of the largest
constexpr double kShare = 0.5;             // of the way to B: tools/docs/adr/0034

Rows HeadOf(const std::vector<float>& rows, const RowsShape& shape, std::size_t head) {
  return {rows.data() + head * shape.tokens * shape.head_dim, static_cast<Eigen::Index>(shape.tokens),
          static_cast<Eigen::Index>(shape.head_dim)};
}

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

/// (B^kShare, B^-kShare); the identity where either moment is 0.
std::pair<Matrix, Matrix> Gauge(const Matrix& keys, const Matrix& queries) {
  const Matrix identity = Matrix::Identity(keys.rows(), keys.rows());
  if (!(keys.trace() > 0) || !(queries.trace() > 0)) return {identity, identity};
  const Matrix shrunk = Shrunk(keys), root = Power(shrunk, 0.5), inverse_root = Power(shrunk, -0.5);
  const Matrix mean = root * Power(inverse_root * Shrunk(queries).inverse() * inverse_root, 0.5) * root;
  const Matrix transform = Power(mean, -0.5 * kShare), inverse = Power(mean, 0.5 * kShare);
  const double scale = std::sqrt(keys.trace() / (transform * keys * transform).trace());
  return {transform * scale, inverse / scale};
}

/// Covariance of keys around the mean of their block; a block's own mean takes one degree of freedom.
Matrix Spread(const Rows& keys) {
  Matrix sum = Matrix::Zero(keys.cols(), keys.cols());
  double freedom = 0;
  for (Eigen::Index first = 0; first < keys.rows(); first += kBlockTokens) {
    const auto begin = first == 0 ? static_cast<Eigen::Index>(kSinkTokens) : first;
    const auto end = std::min<Eigen::Index>(first + static_cast<Eigen::Index>(kBlockTokens), keys.rows());
    if (end <= begin) continue;
    Matrix block = keys.middleRows(begin, end - begin).cast<double>();
    block.rowwise() -= block.colwise().mean().eval();
    sum += block.transpose() * block;
    freedom += static_cast<double>(end - begin - 1);
  }
  return sum / std::max(freedom, 1.0);
}

void Append(std::vector<float>& to, const Matrix& matrix) {
  for (Eigen::Index row = 0; row < matrix.rows(); ++row) {
    for (Eigen::Index column = 0; column < matrix.cols(); ++column) to.push_back(static_cast<float>(matrix(row, column)));
  }
}

}  // namespace

LayerCalibration Calibrate(const RowsShape& shape, const LayerRows& rows) {
  LayerCalibration out;
  const std::size_t group = shape.q_heads / shape.kv_heads;
  const auto body = static_cast<Eigen::Index>(shape.tokens - std::min(shape.tokens, kSinkTokens));
  for (std::size_t head = 0; head < shape.kv_heads; ++head) {
    const Rows keys = HeadOf(rows.keys, shape, head), values = HeadOf(rows.values, shape, head);
    Append(out.key_mean, keys.cast<double>().colwise().mean());
    Append(out.value_mean, values.cast<double>().colwise().mean());
    const Eigen::RowVectorXd largest = keys.bottomRows(body).cast<double>().cwiseAbs().colwise().maxCoeff();
    Append(out.smooth, largest.unaryExpr([](double most) { return most > 0 ? std::sqrt(most) : 1.0; }));
    Matrix queries = Matrix::Zero(keys.cols(), keys.cols());
    for (std::size_t g = 0; g < group; ++g) {
      const Matrix of_head = HeadOf(rows.queries, shape, head * group + g).bottomRows(body).cast<double>();
      queries += of_head.transpose() * of_head;
    }
    queries /= static_cast<double>(static_cast<std::size_t>(body) * group);
    const auto [transform, inverse] = Gauge(Spread(keys), queries);
    Append(out.gauge, transform);
    Append(out.gauge_inverse, inverse);
  }
  return out;
}

}  // namespace kvant::tools
