// kvantctl: looks after a running kvantd. Parses the command line; each sub-command has its own file.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <map>
#include <string>

#include "tools/kvantctl/command.h"

namespace {

constexpr const char* kFooter =
    "Exit codes: 0 ok, 1 failure, 2 wrong command line, 3 no daemon at the socket, 4 not found, 5 refused,\n"
    "            6 no answer within --timeout, 7 incompatible daemon version.\n"
    "JSON output has exact integers; field names are those of kvant/admin.h. Errors go to standard error.";

// As kvantd chooses it: environment is read here and nowhere deeper.
std::string DefaultSocket() {
  if (const char* socket = std::getenv("KVANT_SOCKET"); socket != nullptr && *socket != '\0') return socket;
  if (const char* dir = std::getenv("XDG_RUNTIME_DIR"); dir != nullptr && *dir != '\0')
    return std::string(dir) + "/kvant/kvantd.sock";
  return "/run/kvant/kvantd.sock";
}

/// `exit_code`, unless what was printed did not arrive: then the user is told, and a success becomes a failure.
int Written(int exit_code) {
  if (std::cout.flush().good() && std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return exit_code;
  std::fprintf(stderr, "kvantctl: cannot write to standard output\n");
  return exit_code == kvant::tools::kOk ? kvant::tools::kFailure : exit_code;
}

int Run(int argc, char** argv) {
  using namespace kvant::tools;  // NOLINT(google-build-using-namespace)
  Invocation invocation;
  invocation.globals.socket = DefaultSocket();

  CLI::App app{"Looks after a running kvantd.", "kvantctl"};
  app.footer(kFooter);
  app.set_version_flag("--version", std::string("kvantctl ") + KVANT_VERSION);
  app.add_option("-s,--socket", invocation.globals.socket,
                 "The daemon's socket: PATH or unix:PATH (or environment KVANT_SOCKET)")
      ->capture_default_str();
  app.add_option("--timeout", invocation.globals.timeout_s, "Seconds to wait for an answer")
      ->check(CLI::Range(0.001, 86400.0))
      // CLI::Range lets NaN pass.
      ->check(CLI::Validator([](const std::string& text) { return std::isnan(std::stod(text)) ? "not a number" : ""; }, ""))
      ->capture_default_str();
  const std::map<std::string, Format> formats = {{"table", Format::kTable}, {"json", Format::kJson}};
  app.add_option("-o,--output", invocation.globals.format, "Output: table or json")
      ->transform(CLI::CheckedTransformer(formats).description("{table,json}"));
  app.fallthrough();  // global options may stand behind the sub-command
  app.require_subcommand(1);
  AddPing(app, invocation);
  AddInfo(app, invocation);
  AddStats(app, invocation);
  AddStores(app, invocation);
  AddSequences(app, invocation);
  AddInspect(app, invocation);
  AddCodecs(app, invocation);
  AddEvict(app, invocation);
  AddBench(app, invocation);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? Written(kOk) : kUsage;  // help and version are no errors
  }
  return Written(invocation.exit_code);
}

}  // namespace

int main(int argc, char** argv) {
  try {
    return Run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kvantctl: %s\n", error.what());
    return kvant::tools::kFailure;
  }
}
