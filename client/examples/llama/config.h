// The shape of a Llama-architecture checkpoint, from its config.json. Whatever this engine does not compute is refused by name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include <kvant/result.h>
#include <kvant/rope.h>
#include <nlohmann/json_fwd.hpp>

namespace kvant::examples {

struct Config {
  std::size_t layers = 0;
  std::size_t hidden = 0;        ///< width of the residual stream
  std::size_t intermediate = 0;  ///< width of the SwiGLU
  std::size_t q_heads = 0;       ///< a multiple of kv_heads
  std::size_t kv_heads = 0;
  std::size_t head_dim = 0;
  std::size_t vocab = 0;
  std::size_t max_positions = 0;  ///< longest sequence
  double rms_eps = 0;
  RopeSpec rope;
  bool tied_embeddings = false;
  std::int64_t bos = -1;  ///< -1: none
  std::int64_t eos = -1;

  [[nodiscard]] std::size_t q_width() const noexcept { return q_heads * head_dim; }
  [[nodiscard]] std::size_t kv_width() const noexcept { return kv_heads * head_dim; }
};

/// Reads a config.json (ParseJson has bounded it). kUnsupported names the field and value that this engine does not compute,
/// kInvalidArgument a field that is missing or out of range.
Result<Config> ParseConfig(const nlohmann::json& json);

}  // namespace kvant::examples
