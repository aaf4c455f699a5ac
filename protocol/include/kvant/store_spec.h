// What a store is: the identity that makes KV reusable, and the codec plan. Every field takes part in the identity.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <kvant/tensor.h>

namespace kvant {

/// Which numbers of a row RoPE turns together. Stored: do not renumber.
enum class RopePairing : std::uint8_t {
  kNone = 0,       ///< no rotary positions
  kHalfSplit = 1,  ///< (i, i + rotary_dims/2): Llama as Hugging Face stores it
  kAdjacent = 2,   ///< (2i, 2i+1): GPT-J
};

/// Rotary positions of the model: pair p at token t turns by t * theta^(-2p/rotary_dims).
/// Used by codecs that store keys before RoPE; for the others it only takes part in the identity.
struct RopeSpec {
  RopePairing pairing = RopePairing::kNone;
  double theta = 10000.0;
  std::uint32_t rotary_dims = 0;  ///< 0: all of head_dim
};

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

/// Which codec with which parameters serves the keys and the values of each layer.
struct CodecPlan {
  std::string keys = "turboquant_mse:bits=4";
  std::string values = "turboquant_mse:bits=4";
  std::vector<LayerPlan> overrides;  ///< later entries win; at most 4096
  /// A safetensors image with what codecs were calibrated on (means, codebooks, rotations); empty for none.
  /// Its hash is part of the identity. See quantizers/README.md for the tensor names.
  std::vector<std::byte> artifact;
};

/// Everything that must agree before two processes may share KV. Opening a store by `name` creates it or, where it
/// exists, compares every field and names the first that differs.
struct StoreSpec {
  std::string name;       ///< 1..128 of [A-Za-z0-9._/:=,-]; what operators see
  std::string model;      ///< digest of the weights (any non-empty text)
  std::string tokenizer;  ///< digest or name of the tokenizer (non-empty)
  std::string adapter;    ///< digest of a LoRA or the like; empty for none
  std::string salt;       ///< tenant salt; empty for none
  RopeSpec rope;
  std::uint32_t layers = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;              ///< a multiple of 8, at most 1024
  ElementType dtype = ElementType::kBF16;  ///< what the model computes keys and values in
  std::uint32_t block_tokens = 128;        ///< tokens of a sealed block: a multiple of 16, 16..1024
  std::uint32_t sink_tokens = 4;           ///< first tokens kept raw beside their codes, 0..block_tokens
  CodecPlan plan;
};

}  // namespace kvant
