// Chooses the next token from logits.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include <kvant/client.h>

namespace kvant::examples {

struct SamplerOptions {
  double temperature = 0;  ///< 0: greedy
  double top_p = 1;        ///< keep the most probable tokens that together reach this
  std::uint64_t seed = 0;
};

/// The same options and logits give the same tokens on every machine with the same arithmetic.
class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options) : options_(options), random_(options.seed) {}
  TokenId Next(std::span<const float> logits);

 private:
  SamplerOptions options_;
  std::mt19937_64 random_;
};

/// Natural logarithms of softmax(logits), in double.
std::vector<double> LogSoftmax(std::span<const float> logits);

}  // namespace kvant::examples
