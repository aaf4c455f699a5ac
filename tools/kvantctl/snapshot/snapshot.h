// The sub-commands of `kvantctl snapshot`, one per file.
#pragma once

#include "tools/kvantctl/command.h"

namespace kvant::tools {

void AddSnapshotSave(CLI::App& snapshot, Invocation& invocation);
void AddSnapshotRestore(CLI::App& snapshot, Invocation& invocation);
void AddSnapshotVerify(CLI::App& snapshot, Invocation& invocation);
/// info and list.
void AddSnapshotInfo(CLI::App& snapshot, Invocation& invocation);

}  // namespace kvant::tools
