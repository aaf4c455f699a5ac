#include "tools/kvantctl/command.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>

#include "tools/kvantctl/printable.h"

namespace kvant::tools {

const char* const kExitCodes =
    "Exit codes: 0 ok, 1 failure, 2 wrong command line, 3 no daemon at the socket, 4 not found, 5 refused,\n"
    "            6 no answer within --timeout, 7 incompatible daemon version, 8 not now: in use, or the daemon is ending,\n"
    "            9 the daemon has ended, but could not save its blocks.\n"
    "Errors go to standard error.";

void AddOutputOption(CLI::App& app, Globals& globals) {
  const std::map<std::string, Format> formats = {{"table", Format::kTable}, {"json", Format::kJson}};
  app.add_option("-o,--output", globals.format, "Output: table or json (exact integers)")
      ->transform(CLI::CheckedTransformer(formats).description("{table,json}"));
}

int ParseAndRun(CLI::App& app, int argc, char** argv, const Invocation& invocation) {
  int exit_code = kOk;
  try {
    app.parse(argc, argv);
    exit_code = invocation.exit_code;
  } catch (const CLI::ParseError& error) {
    exit_code = app.exit(error) == 0 ? kOk : kUsage;  // help and version are no errors
  }
  if (std::cout.flush().good() && std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return exit_code;
  std::fprintf(stderr, "%s: cannot write to standard output\n", invocation.globals.program);
  return exit_code == kOk ? kFailure : exit_code;
}

ExitCode ExitCodeOf(ErrorCode code) noexcept {
  switch (code) {
    case ErrorCode::kDisconnected: return kNoDaemon;
    case ErrorCode::kNotFound: return kNotFound;
    case ErrorCode::kStaleDaemon: return kNotFound;  // a number of another daemon's: not here either
    case ErrorCode::kPermissionDenied: return kRefused;
    case ErrorCode::kDeadlineExceeded: return kTimeout;
    case ErrorCode::kVersionMismatch: return kIncompatible;
    case ErrorCode::kUnavailable: return kNotNow;
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
    std::fprintf(stderr, "%s: %s: %s\n", globals.program, name.c_str(), Printable(error.message).c_str());
  }
  return exit_code;
}

int ReportUsage(const Globals& globals, const Error& error) {
  Report(globals, error);
  return kUsage;
}

Result<Admin> ConnectAdmin(const Globals& globals) {
  ClientOptions options;
  options.name = "kvantctl";
  options.deadline = std::chrono::milliseconds(static_cast<std::int64_t>(globals.timeout_s * 1000.0));
  options.spin = std::chrono::microseconds(0);
  return Admin::Connect(globals.socket, options);
}

}  // namespace kvant::tools
