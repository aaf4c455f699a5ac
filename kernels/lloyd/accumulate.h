// Weighted sums straight from the codes of values: exact integer sums of centroids and integer weights.
//
// For each query and each run of up to 128 tokens, weight * scale is rounded to an integer in [0, 255] (8 bits: [0, 4095])
// times one step, largest / 255: the rounding error of a run is at most step / 2 per token, its square at most 128 / (12 *
// 255^2) of the largest term's, which is below 2 % of the codes' own distortion at 4 bits (8 bits: 4095, 2 % as well).
#pragma once

#include <cstdint>

#include "kernels/bytes/attend.h"
#include "kernels/lloyd/table.h"

namespace kvant::kernels {

constexpr std::int32_t LloydWeightMax(std::uint32_t bits) noexcept { return bits == 8 ? 4095 : 255; }

/// `args.block` is laid out as LloydLayout::kValues.
void LloydAccumulate(const LloydTable& table, const ByteAccumulateArgs& args) noexcept;

}  // namespace kvant::kernels
