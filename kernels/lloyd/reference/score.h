// Scalar twin of lloyd/score.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/lloyd/layout.h"
#include "kernels/lloyd/reference/encode.h"
#include "kernels/lloyd/reference/query.h"

namespace kvant::kernels::reference {

/// The logit of one query and one token with that scale; level(i): the integer of dim i.
template <class Level>
float LogitOfLevels(std::size_t dim, float scale, const LloydQuery& query, const Level& level) {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < dim; ++i) sum += static_cast<std::int64_t>(level(i)) * query.numbers[i];
  return static_cast<float>(static_cast<std::int32_t>(sum)) * scale * query.scale + query.bias;
}

/// The logit of one query and one token of a block of keys.
inline float LloydLogit(const LloydTable& table, std::size_t dim, std::size_t tokens, const std::uint8_t* block,
                        std::size_t token, const LloydQuery& query) {
  return LogitOfLevels(dim, LloydScaleAt(table.bits, dim, tokens, block, token), query, [&](std::size_t i) {
    return table.Centroid(LloydIndexAt(LloydLayout::kKeys, table.bits, dim, tokens, block, token, i));
  });
}

}  // namespace kvant::kernels::reference
