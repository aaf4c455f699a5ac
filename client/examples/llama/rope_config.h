// Rotary positions from a config.json, in every spelling that Hugging Face transformers has used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include <kvant/result.h>
#include <kvant/rope.h>
#include <nlohmann/json.hpp>

namespace kvant::examples {

struct RopeConfig {
  RopeSpec spec;
  std::size_t max_positions = 0;  ///< tokens that the model serves with these rotary positions
};

/// Reads `rope_parameters` (newer) or `rope_theta`, `partial_rotary_factor` and `rope_scaling` (older), with
/// `max_position_embeddings` and `original_max_position_embeddings`. The first complaint goes to `error`: kUnsupported or
/// kInvalidArgument names the field. A field about rotary positions that is not known here is refused, never passed over: it
/// would change every key.
///
/// Scalings that depend on the length of the context (dynamic, longrope) are fixed to the longest that the configuration
/// allows, so that a key depends on the tokens before it alone: see RopeDynamic.
RopeConfig ReadRopeConfig(const nlohmann::json& config, std::size_t head_dim, std::optional<Error>& error);

}  // namespace kvant::examples
