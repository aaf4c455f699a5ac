// The list of codecs. A value passed down from main(), not a global: tests add their own to a copy.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "quantizers/codec.h"

namespace kvant::quantizers {

/// A codec spec after parsing and checking: which codec, and every parameter's value.
struct ParsedSpec {
  const Codec* codec = nullptr;
  std::vector<std::int64_t> params;  ///< in the order of codec->params, defaults filled in
  /// The spec with every parameter spelled out, in order, and the version: "turboquant_mse@1:bits=4,center=0". Hashed into
  /// identities.
  [[nodiscard]] std::string Canonical() const;
};

class Registry {
 public:
  /// All codecs of the project.
  static Registry Builtin();

  /// Adds a codec; `codec` must outlive the registry. kInvalidArgument if the name is taken.
  Result<void> Add(const Codec& codec);

  [[nodiscard]] std::span<const Codec* const> codecs() const noexcept { return codecs_; }

  /// Parses "name" or "name:param=value,...". Errors name the codec, the parameter, the value and what is allowed.
  [[nodiscard]] Result<ParsedSpec> Parse(std::string_view spec) const;

 private:
  std::vector<const Codec*> codecs_;
};

}  // namespace kvant::quantizers
