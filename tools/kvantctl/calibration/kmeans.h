// k-means, by dlib.
#pragma once

#include <Eigen/Core>

namespace kvant::tools {

/// Rows of points, or of centres.
using Points = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// At most `count` of the points, far apart; fewer where there are no more that differ. Without chance.
[[nodiscard]] Points FarApart(const Points& points, Eigen::Index count);

/// The centres after `rounds` rounds (Lloyd's); one that no point is nearest to stays where it was.
[[nodiscard]] Points KMeans(const Points& points, const Points& centres, unsigned rounds);

}  // namespace kvant::tools
