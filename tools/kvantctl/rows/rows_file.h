// Rows of a model, dumped for codecs to be tried on: a safetensors file as `kvant rows` writes it. For each layer L from 0 on
// "layers.L.queries" [q_heads, tokens, head_dim], "layers.L.keys" and "layers.L.values" [kv_heads, tokens, head_dim], queries
// and keys as attention multiplies them (behind RoPE), of consecutive tokens from position 0 of one context, F32, F16 or BF16.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include <kvant/result.h>

#include "quantizers/safetensors.h"

namespace kvant::tools {

struct RowsShape {
  std::size_t layers = 0;
  std::size_t q_heads = 0;
  std::size_t kv_heads = 0;
  std::size_t tokens = 0;
  std::size_t head_dim = 0;
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

 private:
  RowsFile() = default;
  [[nodiscard]] Result<std::vector<float>> Numbers(std::size_t layer, const char* what) const;

  std::string path_;
  std::unique_ptr<const std::vector<std::byte>> image_;  ///< what `tensors_` points into
  quantizers::Safetensors tensors_;
  RowsShape shape_;
};

/// The bytes of a file; kNotFound or kInternal with the system's reason.
[[nodiscard]] Result<std::vector<std::byte>> ReadBytes(const std::string& path);

}  // namespace kvant::tools
