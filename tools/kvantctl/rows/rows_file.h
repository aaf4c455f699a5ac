// Rows of a model, dumped for codecs to be tried on: a safetensors file as `kvant rows` writes it. For each layer L from 0 on
// "layers.L.queries" [q_heads, tokens, head_dim], "layers.L.keys" and "layers.L.values" [kv_heads, tokens, head_dim], queries
// and keys as attention multiplies them (behind RoPE), F32, F16 or BF16. Tokens are those of contexts of `window` tokens, one
// after the other, each from position 0 on.
//
// It may say more, for what is calibrated on that alone:
//   metadata "window"     tokens of a context; without it all are of one
//   metadata "model"      a text that the artifact repeats
//   metadata "rope"       {"pairing": "none" | "half_split" | "adjacent", "rotary_dims": N, "attention_factor": F} as JSON, and
//   "rope.radians"        F64 [pairs] per token, of the pairs that are turned
//   "layers.L.projection" [kv_heads, head_dim, head_dim]: the sum of W' W over the query heads of a KV head, W the columns of
//                         the output projection that the head's output is multiplied with
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <kvant/result.h>
#include <kvant/rope.h>

#include "quantizers/safetensors.h"

namespace kvant::tools {

struct RowsShape {
  std::size_t layers = 0;
  std::size_t q_heads = 0;
  std::size_t kv_heads = 0;
  std::size_t tokens = 0;
  std::size_t head_dim = 0;
  std::size_t window = 0;  ///< tokens of a context, 1 or more
};

/// How keys and queries were turned.
struct RowsRope {
  RopeSpec spec;  ///< which numbers are pairs; theta and scaling are not said
  std::vector<double> radians_per_token;
  double attention_factor = 1.0;
};

/// One layer's numbers, each [heads, tokens, head_dim].
struct LayerRows {
  std::vector<float> queries;
  std::vector<float> keys;
  std::vector<float> values;
};

/// Immutable after Open.
class RowsFile {
 public:
  /// Errors name the file and the tensor.
  static Result<RowsFile> Open(const std::string& path);

  [[nodiscard]] const RowsShape& shape() const noexcept { return shape_; }
  /// kNotFinite if a number is NaN or infinite. Requires: layer < shape().layers.
  [[nodiscard]] Result<LayerRows> Read(std::size_t layer) const;
  /// Empty if the file does not say.
  [[nodiscard]] Result<std::optional<std::vector<float>>> Projection(std::size_t layer) const;
  /// Null if the file does not say.
  [[nodiscard]] const RowsRope* rope() const noexcept { return rope_ ? &*rope_ : nullptr; }
  /// Empty if the file does not say.
  [[nodiscard]] const std::string& model() const noexcept { return model_; }

 private:
  RowsFile() = default;
  [[nodiscard]] Result<std::vector<float>> Numbers(const std::string& name, const std::vector<std::size_t>& shape) const;
  Result<void> ReadMetadata();

  std::string path_;
  std::unique_ptr<const std::vector<std::byte>> image_;  ///< what `tensors_` points into
  quantizers::Safetensors tensors_;
  RowsShape shape_;
  std::string model_;
  std::optional<RowsRope> rope_;
};

/// A file's context in the middle, as rows of one context; its rows of a layer.
[[nodiscard]] RowsShape MiddleContext(const RowsShape& shape);
[[nodiscard]] LayerRows MiddleContext(const RowsShape& shape, const LayerRows& rows);

/// The bytes of a file; kNotFound or kInternal with the system's reason.
[[nodiscard]] Result<std::vector<std::byte>> ReadBytes(const std::string& path);

}  // namespace kvant::tools
