// Weighted sums straight from the codes of values: exact integer sums of centroids and integer weights.
#pragma once

#include <cstdint>

#include "kernels/bytes/attend.h"
#include "kernels/lloyd/table.h"

namespace kvant::kernels {

/// The largest integer weight (bytes/weights-inl.h).
constexpr std::int32_t LloydWeightMax(std::uint32_t bits) noexcept { return LloydHasWords(bits) ? 4095 : kByteWeightMax; }

/// `args.block` is laid out as LloydLayout::kValues.
void LloydAccumulate(const LloydTable& table, const ByteAccumulateArgs& args) noexcept;

}  // namespace kvant::kernels
