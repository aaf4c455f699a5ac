// kvantctl clients: who is connected, and what each holds.
#include <CLI/CLI.hpp>

#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

std::string Ago(std::chrono::milliseconds time) {
  return HumanDuration(std::chrono::duration_cast<std::chrono::seconds>(time));
}

std::string Text(const std::vector<ClientRow>& rows) {
  Table table({{"ID", Align::kRight},
               {"PID", Align::kRight},
               {"UID", Align::kRight},
               {"TENANT"},
               {"NAME"},
               {"CONNECTED", Align::kRight},
               {"IDLE", Align::kRight},
               {"SILENT", Align::kRight},
               {"CALLS", Align::kRight},
               {"REFUSED", Align::kRight},
               {"STORES", Align::kRight},
               {"SEQUENCES", Align::kRight},
               {"LEASES", Align::kRight},
               {"ARENAS", Align::kRight}});
  for (const ClientRow& row : rows) {
    table.Add({std::to_string(row.connection), std::to_string(row.pid), std::to_string(row.uid),
               row.admin ? "(operator)" : row.tenant, row.name, Ago(row.connected), Ago(row.idle), Ago(row.silent),
               HumanCount(row.calls), HumanCount(row.refused), HumanCount(row.stores), HumanCount(row.sequences),
               HumanCount(row.leases), HumanBytes(row.arena_bytes)});
  }
  return table.ToString();
}

int Clients(const Globals& globals) {
  return WithAdmin(globals, [&](Admin& admin) -> int {
    const auto rows = admin.Clients();
    if (!rows) return Report(globals, rows.error());
    if (globals.format == Format::kJson) {
      Json list = Json::array();
      for (const ClientRow& row : *rows) list.push_back(ToJson(row));
      Print(Json{{"clients", list}});
    } else {
      Print(Text(*rows));
    }
    return kOk;
  });
}

}  // namespace

void AddClients(CLI::App& app, Invocation& invocation) {
  app.add_subcommand("clients", "List who is connected, for how long, and what each holds")->callback([&invocation] {
    invocation.exit_code = Clients(invocation.globals);
  });
}

}  // namespace kvant::tools
