// Token policies in double, by their definitions (ADR 0045): the reference of what client and daemon do.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "tests/support/conversation.h"

namespace kvant::testing {

/// One sequence under a policy, without blocks, codes or placements. Every method is brute force.
class KeptReference {
 public:
  explicit KeptReference(const FakeModel& model);

  /// The sequence's tokens from now on; what was dropped of those that it had stays dropped.
  void SetTokens(const std::vector<TokenId>& tokens);
  /// StreamingLLM; 0 for none.
  void SetWindow(std::size_t tokens, std::size_t sinks, std::size_t min);

  /// Outputs of the queries at [begin, end) of a layer, [end - begin, q_heads, head_dim]. Each votes for what it attends.
  std::vector<float> Attend(std::size_t layer, std::size_t begin, std::size_t end);

  struct Snap {
    std::size_t budget = 0;
    std::size_t window = 0;
    std::size_t kernel = 0;
    bool max = true;
    std::size_t sinks = 0;
  };
  /// Chooses by the newest queries, whether or not Attend has asked them.
  void ApplySnapKV(const Snap& snap);
  /// Drops until the budget holds, by the votes so far.
  void ApplyH2O(std::size_t budget, std::size_t recent, std::size_t sinks);
  void Keep(std::size_t layer, std::size_t head, std::span<const std::uint64_t> positions);

  /// What the newest token's queries of a KV head attend.
  [[nodiscard]] std::vector<std::uint64_t> Kept(std::size_t layer, std::size_t head) const;
  /// What a query without a row of its own sees: [q_heads, head_dim]. All heads ask `q`.
  [[nodiscard]] std::vector<float> Probe(std::size_t layer, std::span<const float> q, float scale) const;

 private:
  struct Head {
    std::vector<std::vector<float>> keys;
    std::vector<std::vector<float>> values;
    std::vector<bool> dropped;
    std::vector<double> votes;
  };
  Head& At(std::size_t layer, std::size_t head) { return heads_[layer * model_.shape().kv_heads + head]; }
  [[nodiscard]] const Head& At(std::size_t layer, std::size_t head) const {
    return heads_[layer * model_.shape().kv_heads + head];
  }
  [[nodiscard]] bool Sees(const Head& head, std::size_t query, std::size_t position) const;
  /// Softmax weights of a query that stands at `query`, over [0, end).
  [[nodiscard]] std::vector<double> Weights(const Head& head, std::span<const float> q, double scale, std::size_t query,
                                            std::size_t end) const;
  static void Drop(Head& head, const std::vector<double>& scores, std::size_t budget, std::size_t recent, std::size_t sinks);

  const FakeModel& model_;
  std::vector<TokenId> tokens_;
  std::vector<Head> heads_;
  std::size_t window_ = 0;
  std::size_t sinks_ = 0;
  std::size_t min_ = 0;
};

}  // namespace kvant::testing
