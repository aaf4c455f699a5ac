// kvantctl snapshot verify: needs no daemon.
#include <CLI/CLI.hpp>
#include <memory>
#include <string>
#include <vector>

#include "tools/kvantctl/render.h"
#include "tools/kvantctl/snapshot/progress.h"
#include "tools/kvantctl/snapshot/snapshot.h"

namespace kvant::tools {
namespace {

int Verify(const Globals& globals, const std::string& file) {
  const Result<std::vector<DamagedBlock>> damaged = [&] {
    Progress progress(globals, "verify");
    return VerifySnapshot(file, progress.Callback());
  }();
  if (!damaged) return Report(globals, damaged.error());
  if (globals.format == Format::kJson) {
    Json blocks = Json::array();
    for (const DamagedBlock& block : *damaged) {
      blocks.push_back({{"store", block.store}, {"chain", block.chain}, {"position", block.position}, {"what", block.what}});
    }
    const Json event = {{"event", "verified"}, {"file", file}, {"whole", damaged->empty()}, {"damaged", blocks}};
    Print(event.dump(-1, ' ', true, Json::error_handler_t::replace) + "\n");
  } else if (damaged->empty()) {
    Print(file + ": every block matches its checksum\n");
  } else {
    Table table({{"STORE"}, {"CHAIN"}, {"POSITION", Align::kRight}, {"DAMAGED"}});
    for (const DamagedBlock& block : *damaged) {
      table.Add({block.store, block.chain, std::to_string(block.position), block.what});
    }
    Print(table.ToString());
  }
  return damaged->empty() ? kOk : kFailure;
}

}  // namespace

void AddSnapshotVerify(CLI::App& snapshot, Invocation& invocation) {
  CLI::App* command =
      snapshot.add_subcommand("verify", "Read a whole snapshot and name each damaged block; exit code 1 if there are any");
  auto file = std::make_shared<std::string>();
  command->add_option("FILE", *file, "The snapshot")->required();
  command->callback([&invocation, file] { invocation.exit_code = Verify(invocation.globals, *file); });
}

}  // namespace kvant::tools
