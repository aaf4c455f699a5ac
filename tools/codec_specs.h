// The codec specs that tools go through: every codec's variants, derived from the registry's own data.
#pragma once

#include <string>
#include <vector>

#include "quantizers/codec.h"

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

}  // namespace kvant::tools
