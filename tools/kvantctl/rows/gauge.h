// Statistics of one layer's rows and what is calibrated on them. client/python/kvant/calibration has the same arithmetic and
// more (the output projection, codebooks, directions); `kvant calibrate` reads a model, this reads rows.
#pragma once

#include <vector>

#include "tools/kvantctl/rows/rows_file.h"

namespace kvant::tools {

/// Tensors of one layer, of each KV head one after the other.
struct LayerCalibration {
  std::vector<float> key_mean;       ///< [kv_heads, head_dim], over all tokens
  std::vector<float> value_mean;     ///< the same
  std::vector<float> smooth;         ///< [kv_heads, head_dim]: sqrt(max |k|), sinks left out; 1 for a channel of zeros
  std::vector<float> gauge;          ///< [kv_heads, head_dim, head_dim]: B^(1/2)
  std::vector<float> gauge_inverse;  ///< B^(-1/2)
};

/// B is the symmetric matrix with B B = (C # Q^-1)^-1, # the geometric mean of matrices, C the covariance of keys within blocks
/// of 128 tokens around the block's own mean (4 sinks left out), Q the second moment of the queries of the KV head's group,
/// both shrunk by 2 % towards a multiple of the identity. Then k' = B k and q' = B^-1 q have proportional covariances, which
/// makes E|k'|^2 E|q'|^2, and with it the error of rotated codes, least. The pairs that softmax weighs are
/// unlike the mean of all, so keys go half the way (tools/docs/adr/0034). Scaled to leave the keys' mean square as it is.
[[nodiscard]] LayerCalibration Calibrate(const RowsShape& shape, const LayerRows& rows);

}  // namespace kvant::tools
