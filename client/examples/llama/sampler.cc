#include "client/examples/llama/sampler.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numeric>

namespace kvant::examples {

TokenId Sampler::Next(std::span<const float> logits) {
  if (options_.temperature <= 0) return std::max_element(logits.begin(), logits.end()) - logits.begin();
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return logits[a] > logits[b]; });
  std::vector<double> weights(order.size());
  double total = 0;
  for (std::size_t i = 0; i < order.size(); ++i) {
    weights[i] = std::exp((static_cast<double>(logits[order[i]]) - logits[order[0]]) / options_.temperature);
    total += weights[i];
  }
  std::size_t kept = 0;
  double mass = 0;
  while (kept < order.size() && (kept == 0 || mass < options_.top_p * total)) mass += weights[kept++];
  // 53 bits in [0, 1): the standard's distributions differ between libraries.
  const double uniform = static_cast<double>(random_() >> 11) * 0x1.0p-53;
  double left = uniform * mass;
  for (std::size_t i = 0; i < kept; ++i) {
    left -= weights[i];
    if (left < 0) return static_cast<TokenId>(order[i]);
  }
  return static_cast<TokenId>(order[kept - 1]);
}

std::vector<double> LogSoftmax(std::span<const float> logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const float logit : logits) total += std::exp(logit - top);
  const double log_total = top + std::log(total);
  std::vector<double> logs(logits.size());
  std::transform(logits.begin(), logits.end(), logs.begin(), [&](float logit) { return logit - log_total; });
  return logs;
}

}  // namespace kvant::examples
