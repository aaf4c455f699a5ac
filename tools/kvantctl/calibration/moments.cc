#include "tools/kvantctl/calibration/moments.h"

#include <algorithm>

namespace kvant::tools {
namespace {

using Eigen::Index;

constexpr Index kBlockTokens = 128;  // as most plans have it

/// Calls each(first, count) for the tokens of every block of every context, sinks left out.
template <typename Each>
void ForEachBlock(Index tokens, Index window, const Each& each) {
  for (Index context = 0; context < tokens; context += window) {
    const Index end = std::min(context + window, tokens);
    for (Index block = context; block < end; block += kBlockTokens) {
      const Index first = block == context ? block + static_cast<Index>(kSinkTokens) : block;
      const Index last = std::min(block + kBlockTokens, end);
      if (first < last) each(first, last - first);
    }
  }
}

Matrix Square(const Matrix& rows) { return rows.transpose() * rows; }

/// Of rows around `mean`, from their second moment and their own mean.
Matrix Around(const Matrix& moment, const Eigen::RowVectorXd& own, const Eigen::RowVectorXd& mean) {
  return moment - own.transpose() * mean - mean.transpose() * own + mean.transpose() * mean;
}

}  // namespace

HeadMoments MomentsOf(const HeadRows& rows, std::size_t window) {
  const Index dim = rows.keys.cols();
  HeadMoments out;
  out.key_mean = rows.keys.cast<double>().colwise().mean();
  out.value_mean = rows.values.cast<double>().colwise().mean();
  out.largest_key = Eigen::RowVectorXd::Zero(dim);
  out.key_spread = out.query_moment = Matrix::Zero(dim, dim);
  Matrix keys = Matrix::Zero(dim, dim), values = keys;
  Eigen::RowVectorXd key_sum = Eigen::RowVectorXd::Zero(dim), value_sum = key_sum;
  Index count = 0, freedom = 0;
  ForEachBlock(rows.keys.rows(), static_cast<Index>(window), [&](Index first, Index tokens) {
    const Matrix key = rows.keys.middleRows(first, tokens).cast<double>();
    const Matrix value = rows.values.middleRows(first, tokens).cast<double>();
    keys += Square(key);
    values += Square(value);
    key_sum += key.colwise().sum();
    value_sum += value.colwise().sum();
    out.largest_key = out.largest_key.cwiseMax(key.cwiseAbs().colwise().maxCoeff());
    out.key_spread += Square(key.rowwise() - key.colwise().mean().eval());
    for (const Rows& queries : rows.queries) out.query_moment += Square(queries.middleRows(first, tokens).cast<double>());
    count += tokens;
    freedom += tokens - 1;  // the block's own mean takes one
  });
  const auto tokens = static_cast<double>(std::max<Index>(count, 1));
  keys /= tokens;
  values /= tokens;
  out.key_square = keys.diagonal();
  out.value_square = values.diagonal();
  out.key_spread /= static_cast<double>(std::max<Index>(freedom, 1));
  out.query_moment /= tokens * static_cast<double>(rows.queries.size());
  out.key_covariance = Around(keys, key_sum / tokens, out.key_mean);
  out.value_covariance = Around(values, value_sum / tokens, out.value_mean);
  return out;
}

}  // namespace kvant::tools
