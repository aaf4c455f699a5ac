// Loss of a text, and the damage a compressed cache does to it.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include <kvant/client.h>
#include <kvant/result.h>

#include "client/examples/llama/attention.h"
#include "client/examples/llama/model.h"

namespace kvant::examples {

/// Sums over predictions; "per token" figures divide by `tokens`. All in nats.
struct Loss {
  double nll = 0;  ///< sum of -log p(token | all before it)
  std::size_t tokens = 0;

  [[nodiscard]] double per_token() const { return tokens == 0 ? 0 : nll / static_cast<double>(tokens); }
};

/// Teacher-forced loss of `tokens` in a fresh sequence: the mean runs over tokens[i] for i >= max(1, skip), each predicted from
/// all tokens before it. Forwards take at most `step_tokens`.
Result<Loss> ScoreTokens(const Model& model, Attention& attention, std::span<const TokenId> tokens, std::size_t skip,
                         std::size_t step_tokens);

/// Two caches over the same tokens.
struct Comparison {
  double kl = 0;  ///< sum of KL(reference || candidate)
  double reference_nll = 0;
  double candidate_nll = 0;
  std::size_t same_choice = 0;  ///< predictions whose most probable token agrees
  std::size_t tokens = 0;

  Comparison& operator+=(const Comparison& other);
};

/// Runs both caches over `tokens` side by side, each with a full forward pass of its own, so that errors feed forward through
/// the layers and the positions. Counts as ScoreTokens does. Both sequences fresh; `reference` takes any step.
Result<Comparison> CompareTokens(const Model& model, Attention& reference, Attention& candidate,
                                 std::span<const TokenId> tokens, std::size_t skip, std::size_t step_tokens);

/// Means of keys (after RoPE) and values per layer and KV head over the text, in windows of `window_tokens` that each start at
/// position 0, as the safetensors image that codecs with center=1 take as artifact:
/// "layers.{L}.keys.mean" and "layers.{L}.values.mean", [kv_heads, head_dim] F32.
Result<std::vector<std::byte>> Calibrate(const Model& model, std::span<const TokenId> tokens, std::size_t window_tokens);

}  // namespace kvant::examples
