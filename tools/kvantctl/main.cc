// kvantctl: looks after a running kvantd. Parses the command line; each sub-command has its own file.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "tools/kvantctl/command.h"

namespace {

// As kvantd chooses it: environment is read here and nowhere deeper.
std::string DefaultSocket() {
  if (const char* socket = std::getenv("KVANT_SOCKET"); socket != nullptr && *socket != '\0') return socket;
  if (const char* dir = std::getenv("XDG_RUNTIME_DIR"); dir != nullptr && *dir != '\0')
    return std::string(dir) + "/kvant/kvantd.sock";
  return "/run/kvant/kvantd.sock";
}

int Run(int argc, char** argv) {
  using namespace kvant::tools;  // NOLINT(google-build-using-namespace)
  Invocation invocation;
  invocation.globals.socket = DefaultSocket();

  CLI::App app{"Looks after a running kvantd.", "kvantctl"};
  app.footer(std::string(kExitCodes) +
             "\nField names of JSON are those of kvant/admin.h and of the figures that `stats` describes.");
  app.set_version_flag("--version", std::string("kvantctl ") + KVANT_VERSION);
  app.add_option("-s,--socket", invocation.globals.socket,
                 "The daemon's socket: PATH or unix:PATH (or environment KVANT_SOCKET)")
      ->capture_default_str();
  app.add_option("--timeout", invocation.globals.timeout_s, "Seconds to wait for an answer")
      ->check(CLI::Range(0.001, 86400.0))
      // CLI::Range lets NaN pass.
      ->check(CLI::Validator([](const std::string& text) { return std::isnan(std::stod(text)) ? "not a number" : ""; }, ""))
      ->capture_default_str();
  AddOutputOption(app, invocation.globals);
  app.fallthrough();  // global options may stand behind the sub-command
  app.require_subcommand(1);
  AddPing(app, invocation);
  AddInfo(app, invocation);
  AddStats(app, invocation);
  AddDoctor(app, invocation);
  AddTop(app, invocation);
  AddMonitor(app, invocation);
  AddClients(app, invocation);
  AddStores(app, invocation);
  AddSequences(app, invocation);
  AddInspect(app, invocation);
  AddCodecs(app, invocation);
  AddQuality(app, invocation);
  AddCalibrate(app, invocation);
  AddEvict(app, invocation);
  AddDemote(app, invocation);
  AddDrop(app, invocation);
  AddPin(app, invocation);
  AddUnpin(app, invocation);
  AddQuota(app, invocation);
  AddSnapshot(app, invocation);
  AddDrain(app, invocation);
  AddUpgrade(app, invocation);
  AddCompletion(app, invocation);
  AddBench(app, invocation);

  return ParseAndRun(app, argc, argv, invocation);
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
