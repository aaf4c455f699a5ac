// A decoder of the Llama architecture: RMSNorm, RoPE (half split), grouped-query attention, SwiGLU. Computes in f32 with Eigen.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <Eigen/Core>

#include <kvant/client.h>
#include <kvant/result.h>

#include "client/examples/llama/attention.h"
#include "client/examples/llama/config.h"
#include "client/examples/llama/tokenizer.h"

namespace kvant::examples {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// Which tokens of a step need logits.
enum class LogitsOf { kNone, kLast, kAll };

/// Weights and the forward pass. Immutable after Load but for nothing: Forward is const, scratch lives on its stack.
class Model {
 public:
  /// Reads config.json, tokenizer.json and model.safetensors of a folder as Hugging Face lays it out.
  static Result<Model> Load(const std::string& folder);

  [[nodiscard]] const Config& config() const noexcept { return config_; }
  [[nodiscard]] const Tokenizer& tokenizer() const noexcept { return tokenizer_; }
  [[nodiscard]] const std::string& name() const noexcept { return name_; }  ///< the folder's
  [[nodiscard]] const std::string& identity() const noexcept {
    return identity_;
  }  ///< of weights and configuration, see model_identity.h

  /// Runs one step: as many of `tokens` as `attention` has room for, at the positions that follow. Returns that number.
  /// `logits` gets [rows, vocab]: no row, the last token's, or one per token; unchanged where Forward fails.
  Result<std::size_t> Forward(std::span<const TokenId> tokens, Attention& attention, LogitsOf which, Matrix& logits) const;

 private:
  struct Layer {
    Eigen::RowVectorXf attention_norm;  ///< [hidden]
    Eigen::RowVectorXf mlp_norm;        ///< [hidden]
    Matrix qkv;                         ///< [q_width + 2 kv_width, hidden]
    Matrix output;                      ///< [hidden, q_width]
    Matrix gate_up;                     ///< [2 intermediate, hidden]
    Matrix down;                        ///< [hidden, intermediate]
  };

  Model(Config config, RopeFrequencies rope, Tokenizer tokenizer)
      : config_(std::move(config)), rope_(std::move(rope)), tokenizer_(std::move(tokenizer)) {}
  /// Returns the digest of the file.
  Result<std::string> LoadWeights(const std::string& path);

  Config config_;
  RopeFrequencies rope_;
  Tokenizer tokenizer_;
  std::string name_;
  std::string identity_;
  Matrix embedding_;  ///< [vocab, hidden]
  Matrix head_;       ///< [vocab, hidden]; empty where the embedding serves
  Eigen::RowVectorXf final_norm_;
  std::vector<Layer> layers_;
};

}  // namespace kvant::examples
