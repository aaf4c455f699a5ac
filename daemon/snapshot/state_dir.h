// A folder in which a daemon keeps its blocks from one run to the next.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <kvant/result.h>

#include "daemon/snapshot/leased_blocks.h"
#include "daemon/snapshot/restoration.h"
#include "daemon/store/core.h"
#include "daemon/store/store_table.h"
#include "protocol/memfd.h"
#include "protocol/snapshot/writer.h"

namespace kvant::daemon {

/// Holds `state.safetensors` in an existing folder, which no other daemon uses meanwhile (flock). Movable.
class StateDir {
 public:
  /// kUnavailable if another daemon has it, kSystem if it cannot be opened.
  static Result<StateDir> Open(const std::string& path);

  /// Brings the blocks of the file into `stores`, all or none; none if there is no file. Loop thread; reads all of it.
  Result<std::optional<Restoration::Figures>> Restore(Core& core, StoreTable& stores) const;
  /// Renames the file to `state.aside-N.safetensors`, the first that is free, and answers that path.
  [[nodiscard]] Result<std::string> SetAside() const;

  /// What to write of every store that has blocks, leased by `leased`. Loop thread.
  static Result<std::vector<snapshot::StoreToSave>> Gather(StoreTable& stores, std::vector<std::unique_ptr<LeasedBlocks>>& leased);
  /// Replaces the file. Any thread, while the leases live.
  Result<snapshot::SavedFigures> Save(const std::vector<snapshot::StoreToSave>& stores, const snapshot::Progress& progress) const;

  [[nodiscard]] std::string file() const { return path_ + "/state.safetensors"; }

 private:
  StateDir(std::string path, protocol::UniqueFd lock) : path_(std::move(path)), lock_(std::move(lock)) {}

  std::string path_;
  protocol::UniqueFd lock_;
};

}  // namespace kvant::daemon
