#include "tools/kvantctl/command.h"

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/kvantctl/printable.h"

namespace kvant::tools {

ExitCode ExitCodeOf(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kDisconnected: return kNoDaemon;
    case ErrorCode::kNotFound: return kNotFound;
    case ErrorCode::kStaleDaemon: return kNotFound;  // a number of another daemon's: not here either
    case ErrorCode::kPermissionDenied: return kRefused;
    case ErrorCode::kDeadlineExceeded: return kTimeout;
    case ErrorCode::kVersionMismatch: return kIncompatible;
    default: return kFailure;
  }
}

int Report(const Globals& globals, const Error& error) {
  const std::string name(ErrorCodeName(error.code));
  const int exit_code = ExitCodeOf(error.code);
  if (globals.format == Format::kJson) {
    const nlohmann::ordered_json object = {{"error", {{"code", name}, {"message", error.message}, {"exit_code", exit_code}}}};
    std::fprintf(stderr, "%s\n", object.dump(2, ' ', true, nlohmann::ordered_json::error_handler_t::replace).c_str());
  } else {
    std::fprintf(stderr, "kvantctl: %s: %s\n", name.c_str(), Printable(error.message).c_str());
  }
  return exit_code;
}

Result<Admin> ConnectAdmin(const Globals& globals) {
  ClientOptions options;
  options.name = "kvantctl";
  options.deadline = std::chrono::milliseconds(static_cast<std::int64_t>(globals.timeout_s * 1000.0));
  options.spin = std::chrono::microseconds(0);
  return Admin::Connect(globals.socket, options);
}

}  // namespace kvant::tools
