// Blocks that a daemon keeps leased for this process, mapped and ready to be written to a snapshot.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <kvant/kvant.capnp.h>
#include <kvant/result.h>
#include <kvant/snapshot.h>

#include "client/connection.h"
#include "client/slab.h"
#include "client/store.h"
#include "protocol/snapshot/writer.h"

namespace kvant::client {

/// Owning thread of the connection only, which it keeps no hold of.
class SavedBlocks {
 public:
  /// Has the daemon lease the blocks of `store`, or those of a sequence of it, and maps them.
  static Result<SavedBlocks> Of(const Store& store, std::optional<SequenceId> sequence);
  /// Maps what `snapshot` leases. kCorrupt if a slot is not where the daemon said.
  static Result<SavedBlocks> Map(Connection& connection, wire::Snapshot::Client snapshot, std::uint64_t boot_token);

  [[nodiscard]] const snapshot::StoreToSave& store() const noexcept { return store_; }
  /// Whether the daemon still keeps them: only then is all that was read since Map good.
  [[nodiscard]] Result<void> StillLeased(Connection& connection);

 private:
  explicit SavedBlocks(wire::Snapshot::Client snapshot) : snapshot_(kj::mv(snapshot)) {}
  Result<void> ReadManifest(Connection& connection);
  Result<void> MapSlabs(Connection& connection, std::uint64_t boot_token);
  Result<void> ListBlocks(Connection& connection);
  Result<std::span<const std::byte>> Slot(wire::BlockRef::Reader ref) const;

  wire::Snapshot::Client snapshot_;
  snapshot::StoreToSave store_;
  std::vector<std::shared_ptr<const Slab>> slabs_;  // by index, null where there is none
};

/// Writes what is mapped, sees that it was leased all the while, and only then puts the file in its place.
Result<SaveReport> WriteSaved(Connection& connection, std::span<SavedBlocks> blocks, const std::string& path,
                              const SnapshotProgress& progress);

}  // namespace kvant::client
