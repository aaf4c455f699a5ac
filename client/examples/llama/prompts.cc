#include "client/examples/llama/prompts.h"

#include <algorithm>
#include <iostream>
#include <vector>

namespace kvant::examples {
namespace {

void Warn(const Error& error) { std::cerr << "kvant-generate: warning: " << error.message << "\n"; }

}  // namespace

Result<Prompts> Prompts::Open(const std::string& folder, std::uint64_t budget_bytes) {
  Result<PromptCache> cache = PromptCache::Open(folder, budget_bytes);
  if (!cache) return cache.error();
  return Prompts(*std::move(cache));
}

void Prompts::Load(Service& service, std::span<const TokenId> prompt) {
  const auto begin = std::chrono::steady_clock::now();
  const Result<CachedPrefix> found = cache_.Load(service.handle(), prompt);
  took_ = std::chrono::steady_clock::now() - begin;
  if (!found) return Warn(found.error());
  tokens_ = found->tokens;
}

void Prompts::Save(Service& service, KvantAttention& attention, std::span<const TokenId> prompt,
                   std::span<const TokenId> generated) {
  std::vector<TokenId> tokens(prompt.begin(), prompt.end());
  tokens.insert(tokens.end(), generated.begin(), generated.end());
  tokens.resize(std::min<std::size_t>(tokens.size(), attention.length()));
  const Result<SaveReport> saved = cache_.Save(service.handle(), attention.sequence().id(), tokens);
  if (!saved) Warn(saved.error());
}

}  // namespace kvant::examples
