// The codec specs that tools go through: every codec's variants, derived from the registry's own data.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "quantizers/codec.h"
#include "quantizers/registry.h"

namespace kvant::tools {

/// One spec per allowed value of every parameter that has a list of them, or else the codec with its defaults.
inline std::vector<std::string> CodecSpecs(const quantizers::Codec& codec) {
  std::vector<std::string> specs;
  for (const quantizers::ParamSpec& param : codec.params) {
    for (const std::int64_t value : param.allowed) {
      specs.push_back(std::string(codec.name) + ":" + std::string(param.name) + "=" + std::to_string(value));
    }
  }
  if (specs.empty()) specs.emplace_back(codec.name);
  return specs;
}

/// A working codec of one KV head of an uncalibrated model.
inline Result<std::unique_ptr<quantizers::BlockCodec>> MakeCodec(const quantizers::Registry& registry, const std::string& spec,
                                                                 quantizers::Side side, std::uint32_t head_dim,
                                                                 std::uint32_t block_tokens) {
  const auto parsed = registry.Parse(spec);
  if (!parsed) return parsed.error();
  const quantizers::CodecConfig config{.kv_heads = 1,
                                       .head_end = 1,
                                       .head_dim = head_dim,
                                       .block_tokens = block_tokens,
                                       .model = "model",
                                       .registry = &registry};
  if (side == quantizers::Side::kKeys) {
    auto keys = quantizers::MakeKeys(*parsed, config);
    if (!keys) return keys.error();
    return std::unique_ptr<quantizers::BlockCodec>(*std::move(keys));
  }
  auto values = quantizers::MakeValues(*parsed, config);
  if (!values) return values.error();
  return std::unique_ptr<quantizers::BlockCodec>(*std::move(values));
}

/// The expected relative squared error of a spec on normal rows; 0 if it does not know it.
inline Result<double> ExpectedError(const quantizers::Registry& registry, const std::string& spec, quantizers::Side side,
                                    std::uint32_t head_dim) {
  const auto codec = MakeCodec(registry, spec, side, head_dim, 128);
  if (!codec) return codec.error();
  return (*codec)->expected_error((*codec)->parts()).value_or(0.0);
}

}  // namespace kvant::tools
