#include "protocol/system_error.h"

#include <cstring>

namespace kvant::protocol {

Error SystemError(std::string_view operation, int error_number) {
  const char* name = ::strerrorname_np(error_number);
  char buffer[128];
  const char* text = ::strerror_r(error_number, buffer, sizeof buffer);
  std::string message(operation);
  message += ": ";
  message += name != nullptr ? name : std::to_string(error_number);
  message += ", ";
  message += text;
  return {ErrorCode::kSystem, std::move(message)};
}

}  // namespace kvant::protocol
