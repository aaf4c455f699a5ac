// wire::Snapshot: leased blocks for a client that copies them.
#pragma once

#include <memory>

#include <kvant/kvant.capnp.h>

#include "daemon/serve/rpc_handler.h"
#include "daemon/serve/session.h"
#include "daemon/snapshot/leased_blocks.h"

namespace kvant::daemon {

/// The leases end with it. Loop thread.
class SnapshotServer final : public wire::Snapshot::Server {
 public:
  /// `messages`: of the connection; null: nobody counts.
  SnapshotServer(std::unique_ptr<const LeasedBlocks> blocks, std::shared_ptr<wire::MessageMemory::Account> messages)
      : blocks_(std::move(blocks)), messages_(std::move(messages)) {}

  kj::Promise<void> manifest(ManifestContext context) override;
  kj::Promise<void> slabs(SlabsContext context) override;
  kj::Promise<void> blocks(BlocksContext context) override;

 private:
  const std::unique_ptr<const LeasedBlocks> blocks_;
  const std::shared_ptr<wire::MessageMemory::Account> messages_;
};

/// The blocks of `store`, or those of a sequence of it (0: all). kNotFound if the sequence is of another store.
Result<std::unique_ptr<const LeasedBlocks>> LeaseForSnapshot(Services& services, const std::shared_ptr<Store>& store,
                                                             std::uint64_t sequence);

}  // namespace kvant::daemon
