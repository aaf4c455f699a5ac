// Scalar twins of trellis/attend.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/lloyd/reference/accumulate.h"
#include "kernels/lloyd/reference/score.h"
#include "kernels/trellis/table.h"

namespace kvant::kernels::reference {

/// The logit of one query and one token of a block of keys.
inline float TrellisLogit(const TrellisTable& table, std::size_t dim, std::size_t tokens, const std::uint8_t* block,
                          std::size_t token, const LloydQuery& query) {
  return LogitOfLevels(dim, LloydScaleAt(table.bits(), dim, tokens, block, token), query, [&](std::size_t i) {
    return table.Level(TrellisLevelAt(LloydLayout::kKeys, table.bits(), dim, tokens, block, token, i));
  });
}

/// One query of a block of values: weights [tokens], acc [dim].
inline void TrellisAccumulate(const TrellisTable& table, std::size_t dim, std::size_t tokens, const std::uint8_t* block,
                              const float* weights, float* acc) {
  AccumulateLevels(table.bits(), dim, tokens, block, weights, acc, [&](std::size_t token, std::size_t i) {
    return table.Level(TrellisLevelAt(LloydLayout::kValues, table.bits(), dim, tokens, block, token, i));
  });
}

}  // namespace kvant::kernels::reference
