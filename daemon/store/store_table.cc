#include "daemon/store/store_table.h"

#include <utility>

namespace kvant::daemon {
namespace {

/// An artifact is held as its image and, parsed, as f32: up to twice the image again where it holds f16.
std::size_t RecordBytes(const StoreSpec& spec) { return kStoreRecordBytes + 3 * spec.plan.artifact.size(); }

}  // namespace

StoreTable::StoreTable(Core& core) : core_(core) {
  core_.make_room = [this](std::size_t bytes) { return MakeRoom(bytes); };
}

StoreTable::~StoreTable() { core_.make_room = nullptr; }

Result<Charge> StoreTable::ChargeRecord(const StoreSpec& spec) {
  const std::string what = "the record of store " + spec.name;
  Result<Charge> charge = core_.budget.Take(ChargeKind::kMetadata, RecordBytes(spec), what);
  while (!charge && MakeRoom(RecordBytes(spec))) charge = core_.budget.Take(ChargeKind::kMetadata, RecordBytes(spec), what);
  return charge;
}

Result<OpenedStore> StoreTable::Open(const StoreSpec& spec) {
  Result<Charge> charge = ChargeRecord(spec);
  if (!charge) return charge.error();
  auto plan = quantizers::Plan::Make(core_.codecs, spec);
  if (!plan) return plan.error();
  return Adopt(std::move(*plan), std::move(*charge));
}

Result<OpenedStore> StoreTable::Adopt(std::unique_ptr<const quantizers::Plan> plan, Charge charge) {
  const StoreSpec& spec = plan->spec();
  if (const auto existing = stores_.find(spec.name); existing != stores_.end()) {
    const std::string difference = IdentityDifference(existing->second->identity_fields(), IdentityFields(*plan));
    if (!difference.empty()) {
      if (core_.notify) core_.notify("open store " + spec.name + " refused: another identity: " + difference);
      return Error{ErrorCode::kIdentityMismatch, "open store " + spec.name +
                                                     ": the store of that name has another identity; the daemon's log "
                                                     "names the fields that differ"};
    }
    return OpenedStore{existing->second, false};
  }
  Result<std::shared_ptr<Store>> store = Store::Create(core_, std::move(plan), std::move(charge));
  if (!store) return store.error();
  stores_.emplace((*store)->name(), *store);
  return OpenedStore{*store, true};
}

Result<Store*> StoreTable::Find(std::string_view name) const {
  const auto entry = stores_.find(name);
  if (entry == stores_.end()) return Error{ErrorCode::kNotFound, "no store has the name '" + std::string(name) + "'"};
  return entry->second.get();
}

std::vector<Store*> StoreTable::stores() const {
  std::vector<Store*> list;
  for (const auto& [name, store] : stores_) list.push_back(store.get());
  return list;
}

Result<EvictFigures> StoreTable::Evict(std::string_view store, std::uint64_t max_blocks, bool dry_run) {
  if (!store.empty()) {
    Result<Store*> found = Find(store);
    if (!found) return found.error();
    return (*found)->Evict(max_blocks, dry_run);
  }
  EvictFigures sum;
  if (dry_run) {
    for (const auto& [name, each] : stores_) {
      if (max_blocks != 0 && sum.blocks == max_blocks) break;
      const EvictFigures part = each->Evict(max_blocks == 0 ? 0 : max_blocks - sum.blocks, true);
      sum.blocks += part.blocks;
      sum.bytes += part.bytes;
    }
    return sum;
  }
  for (Block* oldest = core_.eviction.oldest(); oldest != nullptr; oldest = core_.eviction.oldest()) {
    if (max_blocks != 0 && sum.blocks == max_blocks) break;
    ++sum.blocks;
    sum.bytes += oldest->store->SlotBytesOf(*oldest);
    oldest->store->Evict(*oldest);
  }
  for (const auto& [name, each] : stores_) each->pool().GiveBack(~std::size_t{0});
  return sum;
}

StoreFigures StoreTable::Totals() const {
  StoreFigures sum;
  AddFigures(sum.counters, dropped_, kCounters);
  for (const auto& [name, store] : stores_) {
    const StoreFigures part = store->Figures();
    AddFigures<StoreGauges>(sum, part, kStoreGauges);
    AddFigures(sum.counters, part.counters, kCounters);
  }
  return sum;
}

bool StoreTable::MakeRoom(std::size_t bytes) {
  if (core_.budget.warm_bytes() != 0) {
    for (const auto& [name, store] : stores_) {
      if (store->pool().GiveBack(bytes)) return true;
    }
  }
  if (Block* oldest = core_.eviction.oldest(); oldest != nullptr) {
    oldest->store->Evict(*oldest);
    return true;
  }
  // Stores nobody has open and that hold nothing: their records.
  for (auto it = stores_.begin(); it != stores_.end(); ++it) {
    if (it->second.use_count() != 1 || it->second->index().size() != 0) continue;
    AddFigures(dropped_, it->second->counters(), kCounters);
    stores_.erase(it);
    return true;
  }
  return false;
}

}  // namespace kvant::daemon
