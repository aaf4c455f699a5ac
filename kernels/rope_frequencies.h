// The frequencies of rotary positions: the one place that knows what a RopeSpec comes to.
#pragma once

#include <cstdint>

#include <kvant/result.h>
#include <kvant/rope.h>

namespace kvant::kernels {

/// Radians per token of each pair and the factor on cosines and sines, in double, by the formulas beside the scalings in
/// kvant/rope.h. kInvalidArgument names the field ("rope.factor") and its value if the spec is out of range or inconsistent.
[[nodiscard]] Result<RopeFrequencies> ComputeRopeFrequencies(const RopeSpec& spec, std::uint32_t head_dim);

}  // namespace kvant::kernels
