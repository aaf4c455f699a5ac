// Coordinates in which the errors of keys and the queries that weigh them look alike.
#pragma once

#include "tools/kvantctl/calibration/head_rows.h"

namespace kvant::tools {

/// Symmetric, each other's inverse.
struct Gauge {
  Matrix transform;
  Matrix inverse;
};

/// B^share and B^-share, B the symmetric matrix with B B = (C # Q^-1)^-1, # the geometric mean of matrices, C the covariance of
/// keys, Q the second moment of their queries, both shrunk by 2 % towards a multiple of the identity. Then k' = B k and q' =
/// B^-1 q have proportional covariances, which makes E|k'|^2 E|q'|^2, and with it the error of rotated codes, least. The pairs
/// that softmax weighs are unlike the mean of all, so keys go half the way (tools/docs/adr/0034). Scaled to leave the keys'
/// mean square as it is; the identity where either is 0.
[[nodiscard]] Gauge GaugeOf(const Matrix& keys, const Matrix& queries, double share = 0.5);

}  // namespace kvant::tools
