#include "tools/kvantctl/calibration/codebook.h"

#include <Eigen/Dense>
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "tools/kvantctl/calibration/kmeans.h"

namespace kvant::tools {
namespace {

using Eigen::Index;

constexpr Index kPart = 4;
constexpr Index kWords = 256;
constexpr Index kMostParts = Index{1} << 14;  // some 100 for each word and its negative
constexpr Index kChoices = 2048;              // parts that first words are chosen from
constexpr int kRounds = 12;

Matrix RandomRotation(Index dim, std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  Matrix numbers(dim, dim);
  for (Index i = 0; i < numbers.size(); ++i) numbers.data()[i] = normal(random);
  return Eigen::HouseholderQR<Matrix>(numbers).householderQ();
}

/// With their negatives.
Parts Closed(const Points& words) {
  Parts closed(kWords, kPart);
  closed << words, -words;
  return closed;
}

/// One of each kind of row, at most `most` + 1 of them, in order.
std::vector<std::array<double, kPart>> Kinds(const Points& rows, std::size_t most) {
  std::set<std::array<double, kPart>> kinds;
  for (Index i = 0; i < rows.rows() && kinds.size() <= most; ++i) {
    kinds.insert({rows(i, 0) + 0.0, rows(i, 1) + 0.0, rows(i, 2) + 0.0, rows(i, 3) + 0.0});  // -0 is 0
  }
  return {kinds.begin(), kinds.end()};
}

Points Thinned(const Points& rows, Index most) {
  if (rows.rows() <= most) return rows;
  const Index stride = (rows.rows() + most - 1) / most;
  Points thin((rows.rows() + stride - 1) / stride, rows.cols());
  for (Index i = 0; i < thin.rows(); ++i) thin.row(i) = rows.row(i * stride);
  return thin;
}

}  // namespace

Parts PartsOf(const Rows& rows, const Eigen::RowVectorXd& smooth, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  using RowMajor = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  RowMajor turned = (rows.cast<double>() * smooth.cwiseInverse().asDiagonal()).eval() * RandomRotation(rows.cols(), random);
  for (Index i = 0; i < turned.rows(); ++i) {
    const double size = std::sqrt(turned.row(i).squaredNorm() / static_cast<double>(turned.cols()));
    if (size > 0) turned.row(i) /= size;
  }
  const Parts all = Eigen::Map<const Parts>(turned.data(), turned.size() / kPart, kPart);
  if (all.rows() <= kMostParts) return all;
  std::vector<Index> chosen(static_cast<std::size_t>(all.rows())), sample;
  std::iota(chosen.begin(), chosen.end(), 0);
  std::ranges::sample(chosen, std::back_inserter(sample), kMostParts, random);
  Parts some(kMostParts, kPart);
  for (Index i = 0; i < kMostParts; ++i) some.row(i) = all.row(sample[static_cast<std::size_t>(i)]);
  return some;
}

Parts CodebookOf(const Parts& parts) {
  constexpr Index kHalf = kWords / 2;
  Points sided = parts;
  for (Index i = 0; i < sided.rows(); ++i) {
    if (sided(i, 0) < 0) sided.row(i) *= -1;
  }
  const auto kinds = Kinds(sided, static_cast<std::size_t>(kHalf));
  Points words(kHalf, kPart);
  if (kinds.size() <= static_cast<std::size_t>(kHalf)) {  // of rows that are constant, or few: all of them are words
    for (Index i = 0; i < kHalf; ++i) {
      const auto& kind = kinds[static_cast<std::size_t>(i) % kinds.size()];
      for (Index d = 0; d < kPart; ++d) words(i, d) = kind[static_cast<std::size_t>(d)];
    }
    return Closed(words);
  }
  const Points first = FarApart(Thinned(sided, kChoices), kHalf);
  for (Index i = 0; i < kHalf; ++i) words.row(i) = first.row(i % first.rows());
  Points turned = parts;
  for (int round = 0; round < kRounds; ++round) {
    // |x - s w|^2 = |x|^2 + |w|^2 - 2 s <x, w> is least for s the sign of <x, w>.
    const Points products = parts * words.transpose();
    const Eigen::RowVectorXd squares = words.rowwise().squaredNorm();
    for (Index i = 0; i < parts.rows(); ++i) {
      Index nearest = 0;
      (squares - 2 * products.row(i).cwiseAbs()).minCoeff(&nearest);
      turned.row(i) = (products(i, nearest) < 0 ? -1.0 : 1.0) * parts.row(i);
    }
    words = KMeans(turned, words, 1);
  }
  return Closed(words);
}

}  // namespace kvant::tools
