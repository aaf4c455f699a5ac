// Logits and weighted sums straight from the codes of sub-vectors: exact integer sums, the same on every target.
#pragma once

#include <cstddef>

#include "kernels/bytes/attend.h"
#include "kernels/vector/codebook.h"
#include "kernels/vector/layout.h"

namespace kvant::kernels {

/// `args.block` is laid out as LloydLayout::kKeys, `args.prepared` by vector/query.h.
void VectorScore(const VectorCodebook& codebook, const ByteScoreArgs& args) noexcept;

/// `args.block` is laid out as LloydLayout::kValues. Accumulators are in the order of look-ups: VectorAccumulatorFloats.
void VectorAccumulate(const VectorCodebook& codebook, const ByteAccumulateArgs& args) noexcept;

/// row[d] = acc[VectorSumPlace(d)]: an accumulator in the order of dims.
void VectorSumsInOrder(const float* acc, std::size_t dim, float* row) noexcept;

}  // namespace kvant::kernels
