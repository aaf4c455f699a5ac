// kvantctl drop: ends a store, with all its blocks.
#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "tools/kvantctl/command.h"
#include "tools/kvantctl/printable.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

int Drop(const Globals& globals, const std::string& store, const std::string& tenant) {
  return WithAdmin(globals, [&](Admin& admin) -> int {
    const auto report = admin.Drop(store, tenant);
    if (!report) return Report(globals, report.error());
    if (globals.format == Format::kJson) {
      Json object = ToJson(*report);
      object["store"] = store;
      if (!tenant.empty()) object["tenant"] = tenant;
      Print(object);
    } else {
      Print("dropped " + Printable(store) + ": " + HumanCount(report->blocks) + " blocks, " + HumanBytes(report->bytes) + "\n");
    }
    return kOk;
  });
}

}  // namespace

void AddDrop(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand("drop", "Drop a store with all its blocks; refused while sequences of it are open");
  auto store = std::make_shared<std::string>();
  command->add_option("store", *store, "The store's name (see stores), or its identity (see inspect)")->required();
  auto tenant = std::make_shared<std::string>();
  command->add_option("--tenant", *tenant, "Whose store, where several tenants have one of that name");
  command->callback([&invocation, store, tenant] { invocation.exit_code = Drop(invocation.globals, *store, *tenant); });
}

}  // namespace kvant::tools
