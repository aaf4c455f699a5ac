// The boundary of the library: what every public call is wrapped in.
#pragma once

#include <exception>
#include <string>
#include <string_view>

#include <kj/exception.h>

#include <kvant/result.h>

namespace kvant::client {

/// Runs `call`, which returns a Result; no exception gets out. kj's exceptions are answers that could not be read.
template <typename Call>
auto Guard(std::string_view operation, Call call) -> decltype(call()) {
  try {
    return call();
  } catch (const kj::Exception& exception) {
    return Error{ErrorCode::kInternal, std::string(operation) + ": " + exception.getDescription().cStr()};
  } catch (const std::exception& exception) {
    return Error{ErrorCode::kSystem, std::string(operation) + ": " + exception.what()};
  }
}

inline Error MovedFrom(std::string_view operation) {
  return {ErrorCode::kInvalidArgument, std::string(operation) + ": the object was moved from"};
}

}  // namespace kvant::client
