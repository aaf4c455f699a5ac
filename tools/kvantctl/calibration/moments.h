// What calibration sums up over the rows of one KV head.
#pragma once

#include <Eigen/Core>
#include <cstddef>

#include "tools/kvantctl/calibration/head_rows.h"

namespace kvant::tools {

/// First tokens of a context: they stay raw and are unlike the others. All but the means leave them out.
inline constexpr std::size_t kSinkTokens = 4;

/// In double, over all tokens.
struct HeadMoments {
  Eigen::RowVectorXd key_mean;    ///< with the sinks
  Eigen::RowVectorXd value_mean;  ///< with the sinks
  Eigen::RowVectorXd key_square;  ///< mean squares
  Eigen::RowVectorXd value_square;
  Eigen::RowVectorXd largest_key;  ///< max |k|
  Matrix key_spread;               ///< covariance around the mean of blocks of 128 tokens
  Matrix query_moment;             ///< second moment of the group's queries
  Matrix key_covariance;           ///< around key_mean
  Matrix value_covariance;         ///< around value_mean
};

/// Contexts of `window` tokens follow each other, each from position 0 on; the last may be shorter.
[[nodiscard]] HeadMoments MomentsOf(const HeadRows& rows, std::size_t window);

}  // namespace kvant::tools
