#include "client/examples/llama/generate.h"

#include <utility>

namespace kvant::examples {

Result<Generation> Generate(const Model& model, Attention& attention, std::span<const TokenId> prompt, std::size_t max_tokens,
                            Sampler sampler, std::chrono::steady_clock::time_point start,
                            const std::function<void(const std::string&)>& on_text) {
  Generation result;
  Matrix logits;
  while (!prompt.empty()) {
    // Only the step that ends the prompt needs logits, but a step may take fewer tokens than it is offered.
    const auto count = model.Forward(prompt, attention, LogitsOf::kLast, logits);
    if (!count) return count.error();
    prompt = prompt.subspan(*count);
  }
  if (const auto ended = attention.EndPrompt(); !ended) return ended.error();
  if (logits.rows() != 1) return Error{ErrorCode::kInvalidArgument, "generate: the prompt is empty"};
  while (result.tokens.size() < max_tokens) {
    const std::span<const float> row(logits.data(), static_cast<std::size_t>(logits.cols()));
    const TokenId token = sampler.Next(row);
    const auto elapsed = std::chrono::steady_clock::now() - start;
    if (result.tokens.empty()) result.first_token = elapsed;
    result.decoding = elapsed - result.first_token;
    if (token == model.config().eos) {
      result.ended = true;
      break;
    }
    result.tokens.push_back(token);
    result.nll -= LogSoftmax(row)[static_cast<std::size_t>(token)];
    const std::string bytes = model.tokenizer().Decode(token);
    result.text += bytes;
    on_text(bytes);
    if (result.tokens.size() == max_tokens) break;
    const auto count = model.Forward({&token, 1}, attention, LogitsOf::kLast, logits);
    if (!count) return count.error();
  }
  return result;
}

}  // namespace kvant::examples
