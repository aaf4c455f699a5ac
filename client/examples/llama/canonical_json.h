// The canonical form of a JSON text.
#pragma once

#include <string>

#include <kvant/result.h>
#include <nlohmann/json_fwd.hpp>

namespace kvant::examples {

/// The canonical form of RFC 8785: no white space, fields in order of their names' UTF-16 units, numbers as ECMAScript prints
/// doubles. The same for every text that says the same, whoever wrote it. kInvalidArgument for integers that no double holds.
/// Requires: parsed by ParseJson.
Result<std::string> CanonicalJson(const nlohmann::json& value);

}  // namespace kvant::examples
