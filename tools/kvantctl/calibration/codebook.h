// Codebooks for vector codes (`vecinfer`): 256 words of four numbers.
#pragma once

#include <Eigen/Core>
#include <cstdint>

#include "tools/kvantctl/calibration/head_rows.h"

namespace kvant::tools {

/// [n, 4].
using Parts = Eigen::Matrix<double, Eigen::Dynamic, 4, Eigen::RowMajor>;

/// Parts of rows [tokens, dim] as codes see them: divided by `smooth` [dim], rotated at random, with a root mean square of 1;
/// at most 2^14 of them. A codec's own rotation has other signs, which a law that any rotation gives alike does not depend on.
[[nodiscard]] Parts PartsOf(const Rows& rows, const Eigen::RowVectorXd& smooth, std::uint64_t seed);

/// [256, 4], word i + 128 the negative of word i: parts of rotated rows are as likely as their negatives, and pairs of words
/// are scored in one product. Each round turns every part to the side of its nearest word and takes a step of k-means there.
/// The same parts give the same words.
[[nodiscard]] Parts CodebookOf(const Parts& parts);

}  // namespace kvant::tools
