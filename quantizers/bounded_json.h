// JSON from files and messages that may be hostile.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <kvant/result.h>

namespace kvant::quantizers {

/// What a document may cost.
struct JsonLimits {
  std::size_t bytes = std::size_t{1} << 20;
  std::size_t depth = 32;  ///< arrays and objects within each other
  std::size_t values = std::size_t{1} << 18;
};

/// Parses a document; `what` begins every error ("config.json"). kCorrupt if it is no JSON or an object names a field twice
/// (its readers would not agree on what it says), kOutOfRange if it exceeds a limit. What is nested too deep is never built, so
/// recursion over the result is at most limits.depth deep.
[[nodiscard]] Result<nlohmann::json> ParseJson(std::string_view text, const JsonLimits& limits, std::string_view what);

/// A value for an error message: printed in ASCII, cut after 100 characters. Requires: parsed by ParseJson.
[[nodiscard]] std::string ShownJson(const nlohmann::json& value);

}  // namespace kvant::quantizers
