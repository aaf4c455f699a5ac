// errno as an Error, in one place.
#pragma once

#include <string>
#include <string_view>

#include <kvant/result.h>

namespace kvant::protocol {

/// kSystem: "<operation>: <name of errno>, <its text>".
Error SystemError(std::string_view operation, int error_number);

}  // namespace kvant::protocol
