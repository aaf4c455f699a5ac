#include "quantizers/tokens/choose.h"

#include <algorithm>
#include <bit>

namespace kvant::quantizers {

void PoolScores(std::span<float> scores, std::uint32_t kernel, Pooling pool) {
  const std::size_t half = kernel / 2, n = scores.size();
  if (half == 0) return;
  const std::vector<float> before(scores.begin(), scores.end());
  for (std::size_t p = 0; p < n; ++p) {
    const auto first = before.begin() + static_cast<std::ptrdiff_t>(p > half ? p - half : 0);
    const auto last = before.begin() + static_cast<std::ptrdiff_t>(std::min(n, p + half + 1));
    if (pool == Pooling::kMax) {
      scores[p] = *std::max_element(first, last);
    } else {
      float sum = 0.0f;
      for (auto score = first; score != last; ++score) sum += *score;
      scores[p] = sum / static_cast<float>(kernel);
    }
  }
}

std::size_t CountKept(std::span<const std::uint64_t> kept, std::uint64_t tokens) {
  std::size_t count = 0;
  for (std::uint64_t p = 0; p < tokens; p += 64) {
    const std::uint64_t word = kept[static_cast<std::size_t>(p / 64)];
    const std::uint64_t in = tokens - p;
    count += static_cast<std::size_t>(std::popcount(in < 64 ? word & ((std::uint64_t{1} << in) - 1) : word));
  }
  return count;
}

std::size_t ChooseTokens(const TokenPolicy& policy, std::span<const float> scores, std::uint64_t tokens,
                         std::span<std::uint64_t> kept, std::vector<std::uint32_t>& candidates) {
  const std::size_t before = CountKept(kept, tokens);
  const std::uint64_t end = tokens > policy.recent ? tokens - policy.recent : 0;
  if (before <= policy.budget || end <= policy.sinks) return before;
  candidates.clear();
  for (std::uint64_t at = 0; at < end; at += 64) {
    for (std::uint64_t word = kept[static_cast<std::size_t>(at / 64)]; word != 0; word &= word - 1) {
      const std::uint64_t p = at + static_cast<std::uint64_t>(std::countr_zero(word));
      if (p >= policy.sinks && p < end) candidates.push_back(static_cast<std::uint32_t>(p));
    }
  }
  const std::size_t always = before - candidates.size();
  const std::size_t room = policy.budget > always ? policy.budget - always : 0;
  if (candidates.size() <= room) return before;
  const auto lost = candidates.begin() + static_cast<std::ptrdiff_t>(room);
  std::nth_element(candidates.begin(), lost, candidates.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return scores[a] != scores[b] ? scores[a] > scores[b] : a > b; });
  for (auto p = lost; p != candidates.end(); ++p) kept[*p / 64] &= ~(std::uint64_t{1} << (*p % 64));
  return always + room;
}

}  // namespace kvant::quantizers
