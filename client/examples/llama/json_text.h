// JSON from files that nobody vouches for, and its canonical form.
#pragma once

#include <string>
#include <string_view>

#include <kvant/result.h>
#include <nlohmann/json_fwd.hpp>

namespace kvant::examples {

/// Arrays and objects may lie in one another this deep. Parsing itself needs no stack, but copying and printing do.
inline constexpr int kMaxJsonDepth = 64;

/// Parses a text. kInvalidArgument begins with `what` ("config.json") and says whether the text is no JSON, is nested too
/// deeply, or names a field twice.
Result<nlohmann::json> ParseJson(std::string_view text, const std::string& what);

/// A value for an error message: printed in ASCII, cut after 100 characters.
std::string ShownJson(const nlohmann::json& value);

/// The canonical form of RFC 8785: no white space, fields in order of their names' UTF-16 units, numbers as ECMAScript prints
/// doubles. The same for every text that says the same, whoever wrote it. kInvalidArgument for integers that no double holds.
/// Requires: parsed by ParseJson.
Result<std::string> CanonicalJson(const nlohmann::json& value);

}  // namespace kvant::examples
