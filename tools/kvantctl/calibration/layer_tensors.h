// The tensors that calibration makes of one layer.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "quantizers/safetensors.h"
#include "tools/kvantctl/rows/rows_file.h"

namespace kvant::tools {

/// A tensor with its bytes: F32, or U8.
struct CalibratedTensor {
  std::string name;
  quantizers::TensorType type = quantizers::TensorType::kF32;
  std::vector<std::size_t> shape;
  std::vector<std::byte> bytes;
};

struct CalibrationOptions {
  double map_bits = 3.0;        ///< of `spectral`, on average over the directions of a head
  std::size_t commvq_bits = 0;  ///< of `commvq`; 0: no codewords, which take long. Requires a rope
};

/// What quantizers/codecs/README.md lists, but for what rows do not say: "layers.L.keys.bias", "layers.L.keys.pair_gains" and
/// "layers.L.keys.commvq" want `rope`. `projection` [kv_heads, head_dim, head_dim] weighs the directions of values; without it
/// they weigh alike. Requires: head_dim a multiple of 8, map_bits >= 0.
[[nodiscard]] std::vector<CalibratedTensor> CalibrateLayer(std::size_t layer, const RowsShape& shape, const LayerRows& rows,
                                                           const RowsRope* rope,
                                                           const std::optional<std::vector<float>>& projection,
                                                           const CalibrationOptions& options);

}  // namespace kvant::tools
