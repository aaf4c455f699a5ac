// Logits straight from the codes of keys: integer sums of centroids and integer queries, exact on every target.
#pragma once

#include "kernels/bytes/attend.h"
#include "kernels/lloyd/table.h"

namespace kvant::kernels {

/// `args.block` is laid out as LloydLayout::kKeys, `args.prepared` by lloyd/query.h.
void LloydScore(const LloydTable& table, const ByteScoreArgs& args) noexcept;

}  // namespace kvant::kernels
