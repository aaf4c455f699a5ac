// Durations as operators write them.
#pragma once

#include <chrono>
#include <string_view>

#include <kvant/result.h>

namespace kvant::protocol {

/// "500ms", "90s", "15m", "1.5h", "7d"; "0" is none. kInvalidArgument quotes the text and says what is allowed: a number alone
/// leaves open what it counts and is refused.
Result<std::chrono::milliseconds> ParseDuration(std::string_view text);

}  // namespace kvant::protocol
