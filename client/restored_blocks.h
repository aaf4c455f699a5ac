// Blocks of a snapshot on their way into a daemon.
#pragma once

#include <memory>
#include <span>

#include <kvant/result.h>
#include <kvant/snapshot.h>

#include "client/store.h"
#include "protocol/snapshot/reader.h"

namespace kvant::client {

/// A store of the file and the open store that its blocks go into.
struct StoreToRestore {
  const snapshot::StoredStore* from = nullptr;
  std::shared_ptr<Store> to;
  std::size_t blocks = ~std::size_t{0};  ///< the first so many of the file's, at most
};

/// Offers all blocks, reads those that the daemon wants through two pieces of the arena, one being filled while the daemon
/// copies the other, and commits. All of one session.
Result<RestoreReport> RestoreBlocks(Session& session, const snapshot::SnapshotReader& reader,
                                    std::span<const StoreToRestore> stores, const SnapshotProgress& progress);

}  // namespace kvant::client
