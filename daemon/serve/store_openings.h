// Opens stores without keeping the loop: whatever takes long about an open runs on another thread.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include <kvant/result.h>
#include <kvant/store_spec.h>

#include "daemon/memory/budget.h"
#include "daemon/memory/job_runner.h"
#include "daemon/store/store_table.h"

namespace kvant::daemon {

/// A plan's artifact where its client put it; empty for none. The mapping is kept; the bytes may change at any time.
struct ArtifactBytes {
  std::span<const std::byte> bytes;
  std::shared_ptr<const void> mapping;
};

/// An open whose spec is that of a store, spelled as it was before, is answered at once. Others take turns, first come first
/// served: the artifact is copied, then the store is looked for again, and only where there is none a plan is made. So any
/// number of clients that come with a new spec at once cost one plan. Owned by the daemon; loop thread.
class StoreOpenings {
 public:
  /// All outlive it.
  StoreOpenings(StoreTable& stores, const quantizers::Registry& codecs, JobRunner& plans);
  StoreOpenings(const StoreOpenings&) = delete;
  StoreOpenings& operator=(const StoreOpenings&) = delete;

  /// Calls `done` from the loop, perhaps from inside: the store counts as open (StoreTable::Close) if it was opened. Errors as
  /// StoreTable::Open. `spec` has no artifact yet. `wanted` is asked when the turn comes: where it says no, `done` hears
  /// kDisconnected and nothing is made.
  void Open(std::shared_ptr<Tenant> tenant, StoreSpec spec, ArtifactBytes artifact, std::function<bool()> wanted,
            std::function<void(Result<OpenedStore>)> done);

 private:
  struct Opening;
  void GoOn();
  std::optional<Result<OpenedStore>> Step(const std::shared_ptr<Opening>& opening);
  void Run(const std::shared_ptr<Opening>& opening, std::function<void()> job);

  StoreTable& stores_;
  const quantizers::Registry& codecs_;
  JobRunner& plans_;
  std::deque<std::shared_ptr<Opening>> line_;  // shared with jobs of the first, which is in work
};

}  // namespace kvant::daemon
