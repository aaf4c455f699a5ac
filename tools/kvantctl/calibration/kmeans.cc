#include "tools/kvantctl/calibration/kmeans.h"

#include <dlib/test_for_odr_violations.h>
#undef DLIB_USE_BLAS  // whose sums depend on the machine, and on its threads
#include <dlib/clustering.h>

#include <vector>

namespace kvant::tools {
namespace {

using Point = dlib::matrix<double, 0, 1>;

std::vector<Point> AsDlib(const Points& points) {
  std::vector<Point> out;
  out.reserve(static_cast<std::size_t>(points.rows()));
  for (Eigen::Index i = 0; i < points.rows(); ++i) {
    Point point(points.cols());
    for (Eigen::Index d = 0; d < points.cols(); ++d) point(d) = points(i, d);
    out.push_back(std::move(point));
  }
  return out;
}

Points FromDlib(const std::vector<Point>& points, Eigen::Index dims) {
  Points out(static_cast<Eigen::Index>(points.size()), dims);
  for (Eigen::Index i = 0; i < out.rows(); ++i) {
    for (Eigen::Index d = 0; d < dims; ++d) out(i, d) = points[static_cast<std::size_t>(i)](d);
  }
  return out;
}

}  // namespace

Points FarApart(const Points& points, Eigen::Index count) {
  std::vector<Point> centres;
  dlib::pick_initial_centers(count, centres, AsDlib(points), dlib::linear_kernel<Point>());
  return FromDlib(centres, points.cols());
}

Points KMeans(const Points& points, const Points& centres, unsigned rounds) {
  const std::vector<Point> samples = AsDlib(points);
  std::vector<Point> now = AsDlib(centres);
  for (unsigned round = 0; round < rounds; ++round) {
    const std::vector<Point> before = now;
    dlib::find_clusters_using_kmeans(samples, now, 1);
    // It leaves centres of nothing at the origin.
    for (std::size_t i = 0; i < now.size(); ++i) {
      if (dlib::length_squared(now[i]) == 0) now[i] = before[i];
    }
  }
  return FromDlib(now, points.cols());
}

}  // namespace kvant::tools
