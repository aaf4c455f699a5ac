// kvantctl stores: one line per store.
#include <CLI/CLI.hpp>
#include <string_view>

#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

std::string Text(const std::vector<StoreRow>& rows) {
  Table table({{"STORE"},
               {"KEYS"},
               {"VALUES"},
               {"BLOCKS", Align::kRight},
               {"LEASED", Align::kRight},
               {"SEQUENCES", Align::kRight},
               {"AS F16", Align::kRight},
               {"COMPRESSED", Align::kRight},
               {"RESIDENT", Align::kRight},
               {"PREFIX HITS", Align::kRight},
               {"EVICTED", Align::kRight}});
  for (const StoreRow& row : rows) {
    const auto of = [&row](std::string_view name) { return row.figures.Find(name).value_or(0); };
    const std::string keys = row.keys + (row.key_stage == KeyStage::kBeforeRope ? " (before RoPE)" : "");
    table.Add({row.name, keys, row.values, HumanCount(of("blocks")), HumanCount(of("leased_blocks")),
               HumanCount(of("sequences")), HumanBytes(of("logical_f16_bytes")), HumanBytes(of("compressed_bytes")),
               HumanBytes(of("resident_bytes")), HumanShare(of("prefix_hit_tokens"), of("prefix_lookup_tokens")),
               HumanCount(of("evicted_blocks"))});
  }
  return table.ToString();
}

int Stores(const Globals& globals) {
  return WithAdmin(globals, [&](Admin& admin) -> int {
    const auto rows = admin.Stores();
    if (!rows) return Report(globals, rows.error());
    if (globals.format == Format::kJson) {
      Json list = Json::array();
      for (const StoreRow& row : *rows) list.push_back(ToJson(row));
      Print(Json{{"stores", list}});
    } else {
      Print(Text(*rows));
    }
    return kOk;
  });
}

}  // namespace

void AddStores(CLI::App& app, Invocation& invocation) {
  app.add_subcommand("stores", "List the stores")->callback([&invocation] {
    invocation.exit_code = Stores(invocation.globals);
  });
}

}  // namespace kvant::tools
