// Plain attention over a plain f32 cache in this process: the reference that kvant's is held against.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include <kvant/client.h>
#include <kvant/result.h>
#include <kvant/tensor.h>

#include "client/examples/llama/attention.h"
#include "client/examples/llama/config.h"

namespace kvant::examples {

class ExactAttention final : public Attention {
 public:
  /// A step takes at most `max_step_tokens`.
  explicit ExactAttention(const Config& config, std::size_t max_step_tokens = 512);

  [[nodiscard]] std::size_t length() const override { return length_; }
  Result<std::size_t> Begin(std::size_t tokens) override;
  [[nodiscard]] TensorView Keys(std::size_t layer) override { return NewRows(keys_[layer]); }
  [[nodiscard]] TensorView Values(std::size_t layer) override { return NewRows(values_[layer]); }
  [[nodiscard]] float* queries() override { return queries_.data(); }
  [[nodiscard]] const float* outputs() const override { return outputs_.data(); }
  Result<void> Attend(std::size_t layer, float scale) override;
  Result<void> Commit(std::span<const TokenId> tokens) override;

  /// All committed rows [tokens, kv_heads, head_dim] of a layer, for whoever gathers statistics.
  [[nodiscard]] ConstTensorView CachedKeys(std::size_t layer) const { return Cached(keys_[layer]); }
  [[nodiscard]] ConstTensorView CachedValues(std::size_t layer) const { return Cached(values_[layer]); }

 private:
  using Rows = std::vector<float>;  ///< [kv_heads, capacity, head_dim]
  [[nodiscard]] TensorView NewRows(Rows& rows) const;
  [[nodiscard]] ConstTensorView Cached(const Rows& rows) const;
  void Grow(std::size_t capacity);

  std::size_t q_heads_;
  std::size_t kv_heads_;
  std::size_t head_dim_;
  std::size_t max_step_tokens_;
  std::size_t length_ = 0;
  std::size_t step_ = 0;
  std::size_t capacity_ = 0;
  std::vector<Rows> keys_;  ///< per layer
  std::vector<Rows> values_;
  std::vector<float> queries_;  ///< [max_step_tokens, q_heads, head_dim]
  std::vector<float> outputs_;
};

}  // namespace kvant::examples
