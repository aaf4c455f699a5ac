// The decode loop.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <kvant/client.h>
#include <kvant/result.h>

#include "client/examples/llama/attention.h"
#include "client/examples/llama/model.h"
#include "client/examples/llama/sampler.h"

namespace kvant::examples {

struct Generation {
  std::string text;  ///< bytes; not necessarily valid UTF-8
  std::vector<TokenId> tokens;
  bool ended = false;                            ///< by the model's end token, which is not among `tokens`
  std::chrono::duration<double> first_token{0};  ///< from `start` to the first token chosen
  std::chrono::duration<double> decoding{0};     ///< from there to the last one
  double nll = 0;                                ///< sum over `tokens` of -log p(token) at temperature 1
};

/// Runs `prompt` (at least one token) after what `attention` already holds, then chooses up to `max_tokens` more.
/// `on_text` gets each token's bytes as it is chosen.
Result<Generation> Generate(const Model& model, Attention& attention, std::span<const TokenId> prompt, std::size_t max_tokens,
                            Sampler sampler, std::chrono::steady_clock::time_point start,
                            const std::function<void(const std::string&)>& on_text);

}  // namespace kvant::examples
