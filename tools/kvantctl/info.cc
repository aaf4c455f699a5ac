// kvantctl info: which daemon is this?
#include <CLI/CLI.hpp>

#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

int Info(const Globals& globals) {
  return WithAdmin(globals, [&](Admin& admin) -> int {
    const DaemonInfo& info = admin.daemon();
    if (globals.format == Format::kJson) {
      Json object = ToJson(info);
      object["socket"] = globals.socket;
      Print(object);
      return kOk;
    }
    Listing listing;
    listing.Add("socket", globals.socket);
    listing.Add("version", info.version);
    listing.Add("pid", std::to_string(info.pid));
    listing.Add("budget", HumanBytes(info.budget_bytes));
    listing.Add("protocol", std::to_string(info.protocol_version));
    listing.Add("segment layout", std::to_string(info.segment_layout_version));
    listing.Add("boot token", std::to_string(info.boot_token));
    Print(listing.ToString());
    return kOk;
  });
}

}  // namespace

void AddInfo(CLI::App& app, Invocation& invocation) {
  app.add_subcommand("info", "Show the daemon's version, process and budget")->callback([&invocation] {
    invocation.exit_code = Info(invocation.globals);
  });
}

}  // namespace kvant::tools
