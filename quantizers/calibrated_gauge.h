// What calibration gives a gauge of keys: tensors of the plan's artifact, checked.
#pragma once

#include <span>
#include <vector>

#include "quantizers/codec.h"

namespace kvant::quantizers {

/// Both [kv_heads, head_dim, head_dim], symmetric, each other's inverse.
struct GaugeMatrices {
  std::span<const float> gauge;
  std::span<const float> inverse;
};

/// "layers.<layer>.keys.gauge" and "layers.<layer>.keys.gauge_inverse". Errors name the tensor. The artifact owns the numbers.
[[nodiscard]] Result<GaugeMatrices> FindGaugeMatrices(const CodecConfig& config);
/// "layers.<layer>.keys.pair_gains" [kv_heads, head_dim]: positive, of a size that leaves floats in range, and the same for
/// both channels of a pair that RoPE turns.
[[nodiscard]] Result<std::span<const float>> FindPairGains(const CodecConfig& config);

/// Tensors with which either is found.
[[nodiscard]] std::vector<ExampleTensor> ExampleGauge(const CodecConfig& config);
[[nodiscard]] std::vector<ExampleTensor> ExamplePairGains(const CodecConfig& config);

}  // namespace kvant::quantizers
