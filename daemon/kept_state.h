// What kvantd --state-dir does: blocks are read from a file when the daemon begins, and written when it is drained.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <spdlog/logger.h>

#include <kvant/result.h>

#include "daemon/memory/job_runner.h"
#include "daemon/snapshot/state_dir.h"
#include "daemon/store/core.h"
#include "daemon/store/store_table.h"
#include "protocol/memfd.h"

namespace kvant::daemon {

/// Which is newer, the file or memory that a keeper holds, is not guessed: once a daemon has looked at the file, the keeper has
/// a mark, a segment without blocks. Who begins with that mark continues that daemon, even if no block is left, and leaves the
/// file alone; the mark ends with a drained daemon, whose file is the newer. Loop thread.
class KeptState {
 public:
  /// All outlive it but `log`, which may be null. `jobs` writes the file.
  KeptState(StateDir dir, Core& core, StoreTable& stores, JobRunner& jobs, std::shared_ptr<spdlog::logger> log);
  /// Requires: no job of `jobs` runs any more.
  ~KeptState();
  KeptState(const KeptState&) = delete;
  KeptState& operator=(const KeptState&) = delete;

  /// Takes the mark out of what a keeper held, if it is there.
  void TakeMark(std::vector<int>& segments);
  /// Reads the file, unless there was a mark. A file that cannot be restored is set aside under another name, and the daemon
  /// begins empty; one that cannot even be set aside is never replaced.
  void Restore();

  /// Replaces the file and calls `done` on the loop thread; gives up after `timeout`. Once.
  void Save(std::chrono::milliseconds timeout, std::function<void()> done);
  /// Save gives up soon.
  void Cancel() noexcept { cancelled_.store(true); }
  /// Why the file is not what it should be, if Save was called and did not replace it.
  [[nodiscard]] std::optional<Error> Fault() const;

 private:
  struct Saving {
    StateToSave state;
    Result<snapshot::SavedFigures> outcome = Error{ErrorCode::kSystem, "save state: its job ended early"};
    bool ended = false;  // the loop thread's; the outcome is the job's until then
  };
  void LeaveMark();
  void Saved(std::chrono::milliseconds took);

  const StateDir dir_;
  Core& core_;
  StoreTable& stores_;
  JobRunner& jobs_;
  const std::shared_ptr<spdlog::logger> log_;
  protocol::UniqueFd mark_;
  std::optional<Error> not_to_be_replaced_;
  std::atomic<bool> cancelled_{false};
  std::unique_ptr<Saving> saving_;
};

}  // namespace kvant::daemon
