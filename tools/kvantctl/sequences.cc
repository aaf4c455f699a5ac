// kvantctl sequences: one line per live sequence.
#include <CLI/CLI.hpp>
#include <memory>

#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

std::string Text(const std::vector<SequenceRow>& rows) {
  Table table({{"ID", Align::kRight},
               {"STORE"},
               {"CLIENT"},
               {"LABEL"},
               {"TOKENS", Align::kRight},
               {"SEALED", Align::kRight},
               {"PREFIX HIT", Align::kRight},
               {"KEPT", Align::kRight},
               {"MARKS", Align::kRight},
               {"ACCESS"}});
  for (const SequenceRow& row : rows) {
    table.Add({std::to_string(row.id), row.store, row.client, row.label, HumanCount(row.length), HumanCount(row.sealed_tokens),
               HumanCount(row.prefix_hit_tokens), HumanCount(row.kept_tokens), HumanCount(row.marks),
               row.read_only ? "read" : "own"});
  }
  return table.ToString();
}

int Sequences(const Globals& globals, const std::string& store) {
  return WithAdmin(globals, [&](Admin& admin) -> int {
    auto rows = admin.Sequences();
    if (!rows) return Report(globals, rows.error());
    if (!store.empty()) std::erase_if(*rows, [&](const SequenceRow& row) { return row.store != store; });
    if (globals.format == Format::kJson) {
      Json list = Json::array();
      for (const SequenceRow& row : *rows) list.push_back(ToJson(row));
      Print(Json{{"sequences", list}});
    } else {
      Print(Text(*rows));
    }
    return kOk;
  });
}

}  // namespace

void AddSequences(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand("sequences", "List the live sequences");
  auto store = std::make_shared<std::string>();
  command->add_option("--store", *store, "Only those of this store");
  command->callback([&invocation, store] { invocation.exit_code = Sequences(invocation.globals, *store); });
}

}  // namespace kvant::tools
