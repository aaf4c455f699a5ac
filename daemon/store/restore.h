// A store made anew from what is in shared memory: its manifest and its slabs.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include <kvant/result.h>

#include "daemon/store/core.h"
#include "daemon/store/store.h"

namespace kvant::daemon {

struct RestoredStore {
  std::shared_ptr<Store> store;
  std::size_t blocks = 0;         ///< in its index now
  std::size_t dropped_parts = 0;  ///< slots whose bytes fail their checks, or whose block is not whole
};

/// Rebuilds a store from descriptors of its manifest and of its slabs (read-only ones suffice, under the uid that made them),
/// as SEGMENT.md says. The descriptors stay the caller's. kCorrupt or kVersionMismatch for a manifest that fails its checks,
/// kIdentityMismatch if its plan cannot be built as it was, and what BlockPool::Adopt answers for a slab. Blocks that do not
/// fit the budget are dropped. Loop thread; reads every block.
Result<RestoredStore> RestoreStore(Core& core, int manifest, std::span<const int> slabs);

}  // namespace kvant::daemon
