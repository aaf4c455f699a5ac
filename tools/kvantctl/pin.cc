// kvantctl pin, unpin: blocks that stay for a while whoever needs room.
#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>

#include "protocol/duration.h"
#include "tools/kvantctl/block_filter.h"
#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

struct PinOptions {
  BlockFilterOptions filter;
  std::string time = "1h";
  bool list = false;
};

Json ToJson(const PinRow& row) {
  return {{"id", row.id},         {"tenant", row.tenant}, {"store", row.store},
          {"blocks", row.blocks}, {"bytes", row.bytes},   {"left_ms", row.left.count()}};
}

int List(const Globals& globals) {
  return WithAdmin(globals, [&](Admin& admin) -> int {
    const auto pins = admin.Pins();
    if (!pins) return Report(globals, pins.error());
    if (globals.format == Format::kJson) {
      Json list = Json::array();
      for (const PinRow& row : *pins) list.push_back(ToJson(row));
      Print(Json{{"pins", list}});
      return kOk;
    }
    Table table({{"PIN", Align::kRight},
                 {"TENANT"},
                 {"STORE"},
                 {"BLOCKS", Align::kRight},
                 {"BYTES", Align::kRight},
                 {"LEFT", Align::kRight}});
    for (const PinRow& row : *pins) {
      table.Add({std::to_string(row.id), row.tenant, row.store, HumanCount(row.blocks), HumanBytes(row.bytes),
                 HumanDuration(std::chrono::duration_cast<std::chrono::seconds>(row.left))});
    }
    Print(table.ToString());
    return kOk;
  });
}

int Pin(const Globals& globals, const PinOptions& options) {
  if (options.list) return List(globals);
  const auto filter = options.filter.Read();
  if (!filter) return ReportUsage(globals, filter.error());
  const auto time = protocol::ParseDuration(options.time);
  if (!time) return ReportUsage(globals, {time.error().code, "--for: " + time.error().message});
  return WithAdmin(globals, [&](Admin& admin) -> int {
    const auto pinned = admin.Pin(*filter, *time);
    if (!pinned) return Report(globals, pinned.error());
    if (globals.format == Format::kJson) {
      Print(ToJson(*pinned));
    } else {
      Print("pin " + std::to_string(pinned->id) + " keeps " + HumanCount(pinned->blocks) + " blocks, " +
            HumanBytes(pinned->bytes) + ", for " +
            HumanDuration(std::chrono::duration_cast<std::chrono::seconds>(pinned->left)) + "\n");
    }
    return kOk;
  });
}

}  // namespace

void AddPin(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand(
      "pin", "Keep blocks of one store, and all that they continue, for a while; a quarter of the budget at most");
  auto options = std::make_shared<PinOptions>();
  options->filter.AddTo(*command);
  command->add_option("--for", options->time, "How long (90s, 15m, 12h, 7d; at most 30d)")->capture_default_str();
  command->add_flag("--list", options->list, "List the pins there are");
  command->parse_complete_callback([command] {
    for (const char* scope : {"--list", "--store", "--sequence"}) {
      if (command->count(scope) != 0) return;
    }
    throw CLI::RequiredError("--store, --sequence or --list");
  });
  command->callback([&invocation, options] { invocation.exit_code = Pin(invocation.globals, *options); });
}

void AddUnpin(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand("unpin", "Take a pin off");
  auto pin = std::make_shared<std::uint64_t>(0);
  command->add_option("pin", *pin, "Its number (see pin --list)")->required();
  command->callback([&invocation, pin] {
    const Globals& globals = invocation.globals;
    invocation.exit_code = WithAdmin(globals, [&](Admin& admin) -> int {
      const auto removed = admin.Unpin(*pin);
      if (!removed) return Report(globals, removed.error());
      if (globals.format == Format::kJson) {
        Print(Json{{"unpinned", *pin}});
      } else {
        Print("pin " + std::to_string(*pin) + " is off\n");
      }
      return kOk;
    });
  });
}

}  // namespace kvant::tools
