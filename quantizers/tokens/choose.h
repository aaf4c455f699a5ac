// Choosing the tokens of one KV head that stay, by scores.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "quantizers/tokens/token_policy.h"

namespace kvant::quantizers {

/// scores[p] becomes the largest, or the mean (what lies beyond the ends counts as 0), of the `kernel` scores around it.
/// Requires: kernel is odd.
void PoolScores(std::span<float> scores, std::uint32_t kernel, Pooling pool);

/// Clears bits of `kept`, one per token of a sequence of `tokens`, until at most policy.budget are set. The first policy.sinks
/// and the newest policy.recent tokens stay; of the others those with the highest scores, of equal ones the newer.
/// `scores[p]` is read for p < tokens - policy.recent. Returns how many are set; `candidates` is scratch.
std::size_t ChooseTokens(const TokenPolicy& policy, std::span<const float> scores, std::uint64_t tokens,
                         std::span<std::uint64_t> kept, std::vector<std::uint32_t>& candidates);

/// Set bits among the first `tokens`.
[[nodiscard]] std::size_t CountKept(std::span<const std::uint64_t> kept, std::uint64_t tokens);

}  // namespace kvant::quantizers
