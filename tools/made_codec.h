// A working codec of a spec for one KV head, made with its own example where it wants tensors of calibration.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "quantizers/artifact.h"
#include "quantizers/codec.h"
#include "quantizers/registry.h"

namespace kvant::tools {

/// One side of a codec. Owns the artifact that it was made with.
struct MadeCodec {
  std::unique_ptr<const quantizers::Artifact> artifact;  ///< null: none was needed
  std::unique_ptr<quantizers::KeyCodec> keys;            ///< one of the two
  std::unique_ptr<quantizers::ValueCodec> values;
  std::vector<float> mean;  ///< of the rows that the example is for; empty for zeros

  [[nodiscard]] const quantizers::BlockCodec& codec() const {
    if (keys != nullptr) return *keys;
    return *values;
  }
};

/// How keys are turned where a codec asks for it.
inline const RopeSpec kMadeRope{RopePairing::kHalfSplit, 10000.0, 0};

/// Errors are those of parsing and of making the codec.
inline Result<MadeCodec> MakeWithExample(const quantizers::Registry& registry, const std::string& spec, quantizers::Side side,
                                         std::uint32_t head_dim, std::uint32_t block_tokens) {
  const auto parsed = registry.Parse(spec);
  if (!parsed) return parsed.error();
  quantizers::CodecConfig config{.side = side,
                                 .kv_heads = 1,
                                 .head_end = 1,
                                 .head_dim = head_dim,
                                 .block_tokens = block_tokens,
                                 .model = "model",
                                 .rope = kMadeRope,
                                 .registry = &registry};
  MadeCodec made;
  quantizers::Example example = quantizers::ExampleOf(*parsed, config);
  made.mean = std::move(example.mean);
  if (!example.tensors.empty()) {
    auto artifact = quantizers::Artifact::Make(quantizers::ArtifactImage(example.tensors));
    if (!artifact) return artifact.error();
    made.artifact = *std::move(artifact);
    config.artifact = made.artifact.get();
  }
  if (side == quantizers::Side::kKeys) {
    auto keys = quantizers::MakeKeys(*parsed, config);
    if (!keys) return keys.error();
    made.keys = *std::move(keys);
  } else {
    auto values = quantizers::MakeValues(*parsed, config);
    if (!values) return values.error();
    made.values = *std::move(values);
  }
  return made;
}

}  // namespace kvant::tools
