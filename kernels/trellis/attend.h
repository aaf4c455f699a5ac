// Logits and weighted sums straight from trellis codes: integer sums of levels and integer queries or weights, exact on every
// target.
#pragma once

#include "kernels/bytes/attend.h"
#include "kernels/trellis/table.h"

namespace kvant::kernels {

/// `args.block` is laid out as LloydLayout::kKeys, `args.prepared` by lloyd/query.h with table.plain.
void TrellisScore(const TrellisTable& table, const ByteScoreArgs& args) noexcept;

/// `args.block` is laid out as LloydLayout::kValues.
void TrellisAccumulate(const TrellisTable& table, const ByteAccumulateArgs& args) noexcept;

}  // namespace kvant::kernels
