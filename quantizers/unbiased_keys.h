// Keys of any codec without a known bias: what the key projection adds to each of them before RoPE.
//
// A projection's bias b is turned to each position like the rest of a key, so that no mean of turned keys takes it off where
// RoPE turns fast. Here each key loses exactly its own: k - R_t b is coded, and <q, R_t b> is added to its score. The bias is
// the artifact's, blocks hold nothing of it. Codes that take keys before RoPE get k - b.
//
//   <q, R_(f+i) b> = <R_(-f) q, R_i b>    f the first token of a run of 64, whose R_i b are in memory
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "quantizers/codec.h"

namespace kvant::quantizers {

/// Takes the bias off before a codec of keys. Needs "layers.<layer>.keys.bias" [kv_heads, head_dim], before RoPE; errors name
/// it.
[[nodiscard]] Result<std::unique_ptr<KeyCodec>> MakeUnbiasedKeys(const CodecConfig& config, std::unique_ptr<KeyCodec> inner);

/// Memory that MakeUnbiasedKeys holds for a KV head.
[[nodiscard]] std::size_t UnbiasedHeadBytes(std::size_t head_dim) noexcept;

/// Tensors with which it can be made.
[[nodiscard]] std::vector<ExampleTensor> ExampleBias(const CodecConfig& config);

}  // namespace kvant::quantizers
