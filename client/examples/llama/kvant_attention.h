// Attention through the kvant client library. This file and kvant_service are all that an engine needs to change.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include <kvant/client.h>
#include <kvant/result.h>

#include "client/examples/llama/attention.h"
#include "client/examples/llama/config.h"

namespace kvant::examples {

/// One kvant sequence. Queries, outputs and new rows lie in shared memory, so no tensor byte is ever copied.
class KvantAttention final : public Attention {
 public:
  /// Takes over `sequence`; `client` is the one it came from.
  static Result<std::unique_ptr<KvantAttention>> Make(Client& client, Sequence sequence, const Config& config,
                                                      std::size_t max_step_tokens);

  [[nodiscard]] std::size_t length() const override { return static_cast<std::size_t>(sequence_.length()); }
  Result<std::size_t> Begin(std::size_t tokens) override;
  [[nodiscard]] TensorView Keys(std::size_t layer) override { return rows_->Keys(layer); }
  [[nodiscard]] TensorView Values(std::size_t layer) override { return rows_->Values(layer); }
  [[nodiscard]] float* queries() override { return queries_.f32(); }
  [[nodiscard]] const float* outputs() const override { return static_cast<const float*>(outputs_.view().data); }
  Result<void> Attend(std::size_t layer, float scale) override;
  Result<void> Commit(std::span<const TokenId> tokens) override;
  Result<void> EndPrompt() override { return sequence_.ApplyPolicy(); }

  [[nodiscard]] Sequence& sequence() noexcept { return sequence_; }
  /// Why blocks stay raw: the store is full. Generation goes on until the tail is full too.
  [[nodiscard]] const std::optional<std::string>& warning() const noexcept { return warning_; }

 private:
  KvantAttention(Sequence sequence, Tensor queries, Tensor outputs)
      : sequence_(std::move(sequence)), queries_(std::move(queries)), outputs_(std::move(outputs)) {}

  Sequence sequence_;
  Tensor queries_;  ///< [max_step_tokens, q_heads, head_dim] f32
  Tensor outputs_;
  std::optional<NewRows> rows_;  ///< of the present step
  std::optional<std::string> warning_;
};

}  // namespace kvant::examples
