// The list of codecs. A value passed down from main(), not a global: tests add their own to a copy.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "quantizers/codec.h"

namespace kvant::quantizers {

/// The longest codec spec in bytes, and how deep specs may stand in parentheses.
inline constexpr std::size_t kMaxSpecBytes = 1024;
inline constexpr std::size_t kMaxSpecNesting = 4;

class Registry {
 public:
  /// All codecs of the project.
  static Registry Builtin();

  /// Adds a codec; `codec` must outlive the registry. A name may stand here in several versions. kInvalidArgument if this
  /// version is taken, or if a parameter's default is none of its values.
  Result<void> Add(const Codec& codec);

  [[nodiscard]] std::span<const Codec* const> codecs() const noexcept { return codecs_; }

  /// Parses a spec:
  ///
  ///   spec      = name ["@" version] [":" parameter {"," parameter}]
  ///   parameter = name "=" (integer | number | choice | "(" spec ")")
  ///
  /// Without a version, the newest. Errors name the codec, the parameter, the value and what is allowed. The text may be
  /// hostile: its length and nesting are limited, and the work is proportional to the length.
  [[nodiscard]] Result<ParsedSpec> Parse(std::string_view spec) const;

 private:
  std::vector<const Codec*> codecs_;
};

}  // namespace kvant::quantizers
