#include "client/saved_blocks.h"

#include <string>
#include <utility>

#include "protocol/manifest.h"
#include "protocol/memfd.h"
#include "protocol/snapshot/durable_file.h"

namespace kvant::client {
namespace {

constexpr std::string_view kOperation = "save snapshot";
/// More than any daemon has: indices come from it and are not trusted with memory.
constexpr std::uint32_t kMaxSlabs = 1U << 20;

Error Corrupt(const std::string& what) { return {ErrorCode::kCorrupt, std::string(kOperation) + ": " + what}; }

}  // namespace

Result<SavedBlocks> SavedBlocks::Of(const Store& store, std::optional<SequenceId> sequence) {
  Connection& connection = store.session().connection();
  auto request = store.session().remote().snapshotRequest();
  request.setStore(store.id());
  request.setSequence(sequence.value_or(0));
  auto answer = connection.Call(request, kOperation);
  if (!answer) return answer.error();
  if (answer->isError()) return wire::ReadError(answer->getError());
  return Map(connection, answer->getOk(), store.session().daemon().boot_token);
}

Result<SavedBlocks> SavedBlocks::Map(Connection& connection, wire::Snapshot::Client snapshot, std::uint64_t boot_token) {
  SavedBlocks saved(kj::mv(snapshot));
  if (auto done = saved.ReadManifest(connection); !done) return done.error();
  if (auto done = saved.MapSlabs(connection, boot_token); !done) return done.error();
  if (auto done = saved.ListBlocks(connection); !done) return done.error();
  return saved;
}

Result<void> SavedBlocks::ReadManifest(Connection& connection) {
  auto request = snapshot_.manifestRequest();
  auto answer = connection.Call(request, kOperation);
  if (!answer) return answer.error();
  auto fd = connection.TakeFd(answer->getSegment(), kOperation);
  if (!fd) return fd.error();
  const protocol::UniqueFd owned(*fd);
  auto manifest = wire::ReadManifestSegment(owned.get());
  if (!manifest) return manifest.error();
  store_.spec = std::move(manifest->spec);
  store_.plan = std::move(manifest->plan);
  store_.identity = manifest->identity;
  store_.tenant = std::move(manifest->tenant);
  return {};
}

Result<void> SavedBlocks::MapSlabs(Connection& connection, std::uint64_t boot_token) {
  const SlabOwner owner{.boot_token = boot_token, .identity = store_.identity, .block_tokens = store_.spec.block_tokens};
  for (std::uint32_t from = 0;;) {
    auto request = snapshot_.slabsRequest();
    request.setFrom(from);
    auto answer = connection.Call(request, kOperation);
    if (!answer) return answer.error();
    if (answer->isError()) return wire::ReadError(answer->getError());
    if (answer->getOk().size() == 0) return {};
    for (const auto info : answer->getOk()) {
      if (info.getIndex() < from || info.getIndex() >= kMaxSlabs) return Corrupt("slab " + std::to_string(info.getIndex()));
      auto slab = MapSlab(connection, info, owner, kOperation);
      if (!slab) return slab.error();
      slabs_.resize(info.getIndex() + 1);
      slabs_[info.getIndex()] = *std::move(slab);
      from = info.getIndex() + 1;
    }
  }
}

Result<void> SavedBlocks::ListBlocks(Connection& connection) {
  for (;;) {
    auto request = snapshot_.blocksRequest();
    request.setFirst(store_.blocks.size());
    auto answer = connection.Call(request, kOperation);
    if (!answer) return answer.error();
    for (const auto block : answer->getBlocks()) {
      const std::uint64_t parent = block.getParent();
      snapshot::BlockSlots slots;
      if (parent != ~std::uint64_t{0}) {
        if (parent >= store_.blocks.size()) return Corrupt("block " + std::to_string(parent) + " is listed too late");
        slots.parent = static_cast<std::int64_t>(parent);
      }
      for (const auto& [ref, to] : {std::pair(block.getCodes(), &slots.codes), std::pair(block.getSinks(), &slots.sinks),
                                    std::pair(block.getState(), &slots.state)}) {
        if (ref.getGeneration() == 0) continue;
        auto slot = Slot(ref);
        if (!slot) return slot.error();
        *to = *slot;
      }
      store_.blocks.push_back(slots);
    }
    if (answer->getBlocks().size() == 0 || store_.blocks.size() >= answer->getAll()) return {};
  }
}

Result<std::span<const std::byte>> SavedBlocks::Slot(wire::BlockRef::Reader ref) const {
  const auto bad = [&] {
    return Corrupt("slot " + std::to_string(ref.getSlot()) + " of slab " + std::to_string(ref.getSlab()) + " of store " +
                   store_.spec.name + " is not there");
  };
  if (ref.getSlab() >= slabs_.size() || slabs_[ref.getSlab()] == nullptr) return bad();
  const Slab& slab = *slabs_[ref.getSlab()];
  if (ref.getSlot() >= slab.header.slot_count) return bad();
  return std::span<const std::byte>(slab.segment.data() + protocol::SlotOffset(slab.header, ref.getSlot()),
                                    slab.header.slot_bytes);
}

Result<void> SavedBlocks::StillLeased(Connection& connection) {
  auto request = snapshot_.blocksRequest();
  request.setFirst(store_.blocks.size());
  auto answer = connection.Call(request, kOperation);
  if (!answer) return answer.error();
  return {};
}

Result<SaveReport> WriteSaved(Connection& connection, std::span<SavedBlocks> blocks, const std::string& path,
                              const SnapshotProgress& progress) {
  auto file = snapshot::DurableFile::Create(path);
  if (!file) return file.error();
  std::vector<snapshot::StoreToSave> stores;
  for (const SavedBlocks& each : blocks) stores.push_back(each.store());
  auto written = snapshot::WriteSnapshot(file->fd(), stores, "kvant", progress);
  if (!written) return Error{written.error().code, path + ": " + written.error().message};
  for (SavedBlocks& each : blocks) {
    if (auto held = each.StillLeased(connection); !held) return held.error();
  }
  if (auto done = file->Commit(); !done) return done.error();
  return SaveReport{.stores = written->stores, .blocks = written->blocks, .bytes = written->bytes};
}

}  // namespace kvant::client
