// A store made anew from what is in shared memory: its manifest and its slabs.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include <kvant/result.h>

#include "daemon/store/store.h"
#include "daemon/store/store_table.h"
#include "protocol/manifest.h"

namespace kvant::daemon {

/// When the payloads' checksums are held against what lies there. The rest is checked at once in any case.
enum class CheckPayload {
  kNow,         ///< reads every byte
  kAtFirstUse,  ///< Store::Whole does, before anybody is given the block: the time depends on the number of blocks only
};

struct RestoredStore {
  std::shared_ptr<Store> store;
  std::size_t blocks = 0;         ///< in its index now
  std::size_t dropped_parts = 0;  ///< slots whose bytes fail their checks, or whose block is not whole
};

/// Rebuilds a store from its manifest and descriptors of its slabs (read-only ones suffice, under the uid that made them), as
/// SEGMENT.md says. The descriptors stay the caller's. kIdentityMismatch if its plan cannot be built as it was, and what
/// BlockPool::Adopt answers for a slab. Blocks that do not fit the budget are dropped. The order of sealing stands for that of
/// last use, which is not known. The store is of the tenant that the manifest names (nobody's: of StoreTable::kNobody), and not
/// in the table. Loop thread.
Result<RestoredStore> RestoreStore(StoreTable& stores, const wire::Manifest& manifest, std::span<const int> slabs,
                                   CheckPayload check);

}  // namespace kvant::daemon
