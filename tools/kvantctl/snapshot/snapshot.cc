// kvantctl snapshot: sealed blocks to files and back.
#include "tools/kvantctl/snapshot/snapshot.h"

#include <CLI/CLI.hpp>

namespace kvant::tools {

void AddSnapshot(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand("snapshot", "Save sealed blocks to a file, restore them, look into such files");
  command->footer(
      "A snapshot is one safetensors file with the compressed bytes as they are. It is written beside its place and put there\n"
      "whole: until then, and if anything fails, the old file stays. Raw rows (each sequence's newest tokens) are not in it.");
  command->require_subcommand(1);
  command->fallthrough();
  AddSnapshotSave(*command, invocation);
  AddSnapshotRestore(*command, invocation);
  AddSnapshotVerify(*command, invocation);
  AddSnapshotInfo(*command, invocation);
}

}  // namespace kvant::tools
