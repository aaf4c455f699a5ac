// Prompts that outlive the daemon, in a folder. A cache is for speed: what goes wrong with it is said and left out.
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <utility>

#include <kvant/prompt_cache.h>

#include "client/examples/llama/kvant_service.h"

namespace kvant::examples {

class Prompts {
 public:
  static Result<Prompts> Open(const std::string& folder, std::uint64_t budget_bytes);

  /// Before a sequence is opened on `prompt`.
  void Load(Service& service, std::span<const TokenId> prompt);
  /// What is sealed of the prompt and of the text behind it.
  void Save(Service& service, KvantAttention& attention, std::span<const TokenId> prompt, std::span<const TokenId> generated);

  [[nodiscard]] std::uint64_t tokens() const noexcept { return tokens_; }  ///< of the prompt that Load found
  [[nodiscard]] std::chrono::duration<double> took() const noexcept { return took_; }

 private:
  explicit Prompts(PromptCache cache) : cache_(std::move(cache)) {}

  PromptCache cache_;
  std::uint64_t tokens_ = 0;
  std::chrono::duration<double> took_{0};
};

}  // namespace kvant::examples
