// A folder in which a daemon keeps its blocks from one run to the next.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <kvant/result.h>

#include "daemon/snapshot/leased_blocks.h"
#include "daemon/store/core.h"
#include "daemon/store/store_table.h"
#include "protocol/memfd.h"
#include "protocol/snapshot/writer.h"

namespace kvant::daemon {

/// What a daemon saves: blocks of all its stores, leased while this lives. Destroyed on the loop thread.
struct StateToSave {
  std::vector<std::unique_ptr<LeasedBlocks>> leased;
  std::vector<snapshot::StoreToSave> stores;

  /// Of every store that has blocks; those used last stand first. A block that fails its checksum is dropped, and what follows
  /// it. Takes some 120 bytes per block, and the writer some 60 and 4 per token, beside the budget, which may be full of
  /// blocks: for a daemon that is about to end. Loop thread.
  static StateToSave Of(StoreTable& stores);
};

/// Holds `state.safetensors`, a snapshot (SNAPSHOT.md), in an existing folder which no other daemon uses meanwhile (flock).
/// Movable.
class StateDir {
 public:
  /// kUnavailable if another daemon has it, kSystem if it cannot be opened.
  static Result<StateDir> Open(const std::string& path);

  struct Restored {
    std::uint64_t blocks = 0;
    std::uint64_t left_out = 0;  ///< blocks that found no room: those that were used longest ago, and what follows them
  };
  /// Brings the blocks of the file into stores of the tenants that had them, as far as there is room; nothing if there is no
  /// file. After an error no block has come. Loop thread, which reads all of the file meanwhile.
  Result<std::optional<Restored>> Restore(Core& core, StoreTable& stores) const;
  /// Renames the file to `state.aside-N.safetensors`, the first that is free, and answers that path.
  [[nodiscard]] Result<std::string> SetAside() const;
  /// Replaces the file, or leaves it as it was. Errors as DurableFile and WriteSnapshot. Any thread.
  Result<snapshot::SavedFigures> Save(const std::vector<snapshot::StoreToSave>& stores,
                                      const snapshot::Progress& progress) const;

  [[nodiscard]] std::string file() const { return path_ + "/state.safetensors"; }

 private:
  StateDir(std::string path, protocol::UniqueFd lock) : path_(std::move(path)), lock_(std::move(lock)) {}

  std::string path_;
  protocol::UniqueFd lock_;
};

}  // namespace kvant::daemon
