#include "daemon/serve/snapshot_server.h"

#include <algorithm>
#include <string>
#include <utility>

#include "daemon/serve/slab_server.h"

namespace kvant::daemon {
namespace {

/// In one answer: about 256 KiB.
constexpr std::size_t kMostBlocks = 2048;

/// A store's manifest; keeps the store, whose descriptor it is.
class ManifestServer final : public wire::Segment::Server {
 public:
  explicit ManifestServer(std::shared_ptr<const Store> store) : store_(std::move(store)) {}
  kj::Maybe<int> getFd() override { return store_->manifest_fd(); }

 private:
  const std::shared_ptr<const Store> store_;
};

void WriteRef(SlotRef slot, std::uint64_t generation, wire::BlockRef::Builder to) {
  to.setSlab(slot.slab);
  to.setSlot(slot.slot);
  to.setGeneration(generation);
}

}  // namespace

kj::Promise<void> SnapshotServer::manifest(ManifestContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    context.getResults().setSegment(kj::heap<ManifestServer>(blocks_->store().shared_from_this()));
    return kj::READY_NOW;
  });
}

kj::Promise<void> SnapshotServer::slabs(SlabsContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    constexpr std::size_t kCapabilityBytes = 1024;
    WriteSlabs(
        blocks_->store().slabs(context.getParams().getFrom()),
        [this] { return wire::CountedBytes(messages_, kCapabilityBytes); }, context.getResults());
    return kj::READY_NOW;
  });
}

kj::Promise<void> SnapshotServer::blocks(BlocksContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    const auto entries = blocks_->entries();
    const std::size_t first = std::min<std::uint64_t>(context.getParams().getFirst(), entries.size());
    const std::size_t count = std::min(kMostBlocks, entries.size() - first);
    auto to = context.getResults();
    to.setAll(entries.size());
    auto list = to.initBlocks(static_cast<unsigned>(count));
    for (unsigned i = 0; i < count; ++i) {
      const LeasedBlocks::Entry& entry = entries[first + i];
      const Block& block = *entry.block;
      WriteRef(block.codes().slot, block.generation, list[i].initCodes());
      if (block.sinks() != nullptr) WriteRef(block.sinks()->slot, block.generation, list[i].initSinks());
      if (entry.state != nullptr) WriteRef(entry.state->slot(), entry.state->generation(), list[i].initState());
      list[i].setParent(entry.parent);
    }
    return kj::READY_NOW;
  });
}

Result<std::unique_ptr<const LeasedBlocks>> LeaseForSnapshot(Services& services, const std::shared_ptr<Store>& store,
                                                             std::uint64_t sequence) {
  const Sequence* only = nullptr;
  if (sequence != 0) {
    auto found = services.core.sequences.Find(sequence);
    if (!found) return found.error();
    if (&(*found)->store() != store.get()) {
      return Error{ErrorCode::kNotFound,
                   "snapshot: sequence " + std::to_string(sequence) + " is not of store \"" + store->name() + "\""};
    }
    only = *found;
  }
  auto leased = LeasedBlocks::Of(store, only);
  if (!leased) return leased.error();
  return std::unique_ptr<const LeasedBlocks>(*std::move(leased));
}

}  // namespace kvant::daemon
