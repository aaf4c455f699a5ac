// What a store is: the identity that makes KV reusable, and the codec plan. Every field but the name takes part in the
// identity.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <kvant/rope.h>
#include <kvant/tensor.h>

namespace kvant {

/// What rows of keys are when the engine hands them over. Stored: do not renumber.
enum class KeyStage : std::uint8_t {
  kAfterRope = 0,   ///< as attention multiplies them with queries; also for models without rotary positions
  kBeforeRope = 1,  ///< before their rotation: kvant turns them when it scores. Queries always come after RoPE
};

/// In lower_snake_case.
constexpr std::string_view KeyStageName(KeyStage stage) noexcept {
  switch (stage) {
    case KeyStage::kAfterRope: return "after_rope";
    case KeyStage::kBeforeRope: return "before_rope";
  }
  return "unknown";
}

/// Codecs for some layers, and there for some KV heads, overriding the plan's default.
struct LayerPlan {
  static constexpr std::uint32_t kLastHead = 0xFFFFFFFF;

  std::uint32_t first_layer = 0;
  std::uint32_t last_layer = 0;  ///< inclusive
  std::string keys;              ///< codec spec, for example "turboquant_mse:bits=4"
  std::string values;
  std::uint32_t first_head = 0;
  std::uint32_t last_head = kLastHead;  ///< inclusive; kLastHead: up to the last there is
};

/// Which codec with which parameters serves the keys and the values of each layer: a codec spec, or the name of a preset
/// (exact, hq, balanced, small, tiny; `kvantctl codecs` says what they stand for).
struct CodecPlan {
  std::string keys = "balanced";
  std::string values = "balanced";
  std::vector<LayerPlan> overrides;  ///< later entries win; at most 4096
  /// A safetensors image with what codecs were calibrated on (means, codebooks, rotations); empty for none.
  /// Its hash is part of the identity. See quantizers/codecs/README.md for the tensor names.
  std::vector<std::byte> artifact;
};

/// Everything that must agree before two processes may share KV, and a name. Keys and values computed from the same tokens must
/// be the same wherever these fields are: `model` covers the weights and whatever else of the model's configuration enters the
/// forward pass. client/examples/README.md has the recipe by which the reference engine fills them in.
struct StoreSpec {
  std::string name;       ///< 1..128 of [A-Za-z0-9._/:=,-]; what operators see, not part of the identity
  std::string model;      ///< digest of weights and configuration (any non-empty text)
  std::string tokenizer;  ///< digest or name of the tokenizer (non-empty)
  std::string adapter;    ///< digest of a LoRA or the like; empty for none
  std::string salt;       ///< tenant salt; empty for none
  RopeSpec rope;
  KeyStage key_stage = KeyStage::kAfterRope;  ///< the same for all layers; the codecs of the keys must want it
  std::uint32_t layers = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;              ///< a multiple of 8, at most 1024
  ElementType dtype = ElementType::kBF16;  ///< what the model computes keys and values in
  std::uint32_t block_tokens = 128;        ///< tokens of a sealed block: a multiple of 16, 16..1024
  std::uint32_t sink_tokens = 4;           ///< first tokens kept raw beside their codes, 0..block_tokens
  CodecPlan plan;
};

}  // namespace kvant
