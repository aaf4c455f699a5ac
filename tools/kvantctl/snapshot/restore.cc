// kvantctl snapshot restore.
#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <string>

#include <kvant/client.h>

#include "tools/kvantctl/render.h"
#include "tools/kvantctl/snapshot/progress.h"
#include "tools/kvantctl/snapshot/snapshot.h"

namespace kvant::tools {
namespace {

struct Arguments {
  std::string file;
  std::string name;
};

/// A name that means another store now would be taken from it.
Result<void> CheckNames(const Globals& globals, const SnapshotInfo& info, const std::string& name) {
  auto admin = ConnectAdmin(globals);
  if (!admin) return admin.error();
  const auto rows = admin->Stores();
  if (!rows) return rows.error();
  for (const SnapshotStore& store : info.stores) {
    const std::string& wanted = name.empty() ? store.name : name;
    for (const StoreRow& row : *rows) {
      if (row.name != wanted || row.identity == store.identity) continue;
      return Error{ErrorCode::kInvalidArgument, "the name '" + wanted + "' means a store of another identity now (" +
                                                    row.identity + "); restore it --as another"};
    }
  }
  return {};
}

int Restore(const Globals& globals, const Arguments& arguments) {
  const auto info = ReadSnapshotInfo(arguments.file);
  if (!info) return Report(globals, info.error());
  if (auto names = CheckNames(globals, *info, arguments.name); !names) return Report(globals, names.error());
  ClientOptions options;
  options.name = "kvantctl";
  options.deadline = std::chrono::milliseconds(static_cast<std::int64_t>(globals.timeout_s * 1000.0));
  options.spin = std::chrono::microseconds(0);
  options.arena_bytes = std::size_t{2} << 30;  // address space: two of the largest blocks there may be
  auto client = Client::Connect(globals.socket, options);
  if (!client) return Report(globals, client.error());
  Result<RestoreReport> report = [&] {
    Progress progress(globals, "restore");
    return client->RestoreSnapshot(arguments.file, arguments.name, progress.Callback());
  }();
  if (!report) return Report(globals, report.error());
  if (globals.format == Format::kJson) {
    const Json event = {{"event", "restored"},
                        {"file", arguments.file},
                        {"stores", report->stores},
                        {"restored_blocks", report->restored},
                        {"present_blocks", report->present}};
    Print(event.dump(-1, ' ', true, Json::error_handler_t::replace) + "\n");
  } else {
    Print("restored " + HumanCount(report->restored) + " blocks of " + HumanCount(report->stores) + " stores; " +
          HumanCount(report->present) + " were there already\n");
  }
  return kOk;
}

}  // namespace

void AddSnapshotRestore(CLI::App& snapshot, Invocation& invocation) {
  CLI::App* command = snapshot.add_subcommand("restore", "Bring a snapshot's blocks into the running daemon, all or none");
  auto arguments = std::make_shared<Arguments>();
  command->add_option("FILE", arguments->file, "The snapshot")->required();
  command->add_option("--as", arguments->name, "What its store is called from now on");
  command->callback([&invocation, arguments] { invocation.exit_code = Restore(invocation.globals, *arguments); });
}

}  // namespace kvant::tools
