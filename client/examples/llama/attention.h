// What the model asks of attention: rows to write the next keys and values into, and the attention over everything cached.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include <kvant/client.h>
#include <kvant/result.h>
#include <kvant/tensor.h>

namespace kvant::examples {

/// One sequence of one model. A step is: Begin, then for every layer write Keys and Values and the queries and call Attend,
/// then Commit. Not thread-safe.
class Attention {
 public:
  virtual ~Attention() = default;

  /// Tokens committed so far, those found in shared blocks included.
  [[nodiscard]] virtual std::size_t length() const = 0;

  /// Makes room for the next tokens: at least 1 and at most `tokens`; returns how many.
  virtual Result<std::size_t> Begin(std::size_t tokens) = 0;

  /// [tokens of this step, kv_heads, head_dim], to be written: keys after RoPE.
  [[nodiscard]] virtual TensorView Keys(std::size_t layer) = 0;
  [[nodiscard]] virtual TensorView Values(std::size_t layer) = 0;
  /// [tokens of this step, q_heads, head_dim], contiguous: queries after RoPE in, attention outputs out.
  [[nodiscard]] virtual float* queries() = 0;
  [[nodiscard]] virtual const float* outputs() const = 0;

  /// outputs = softmax(scale * q.k) v, causal, over all committed tokens and those of this step.
  virtual Result<void> Attend(std::size_t layer, float scale) = 0;

  /// The tokens of this step become part of the sequence; as many as Begin returned.
  virtual Result<void> Commit(std::span<const TokenId> tokens) = 0;

  /// The prompt has been read: a cache with a token policy drops what it does not keep.
  virtual Result<void> EndPrompt() { return {}; }
};

}  // namespace kvant::examples
