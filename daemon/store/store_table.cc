#include "daemon/store/store_table.h"

#include <algorithm>
#include <utility>

#include "daemon/memory/check.h"
#include "protocol/digest.h"

namespace kvant::daemon {
StoreTable::StoreTable(Core& core) : core_(core) {
  core_.make_room = [this](std::size_t bytes) { return MakeRoom(bytes); };
}

StoreTable::~StoreTable() { core_.make_room = nullptr; }

Result<Charge> StoreTable::ChargeRecord(const StoreSpec& spec, std::size_t artifact_bytes) {
  return TakeMetadata(Store::RecordBytes(core_.codecs, spec, artifact_bytes), "the record of store " + spec.name);
}

Result<OpenedStore> StoreTable::Open(const StoreSpec& spec) {
  if (auto ok = quantizers::CheckStoreSpec(spec); !ok) return ok.error();
  const protocol::Digest spelling = SpellingDigest(spec);
  if (auto known = OpenKnown(spelling, spec.name)) return *std::move(known);
  Result<Charge> charge = ChargeRecord(spec, spec.plan.artifact.size());
  if (!charge) return charge.error();
  Result<std::unique_ptr<const quantizers::Plan>> plan = quantizers::Plan::Make(core_.codecs, spec);
  if (!plan) return plan.error();
  return Adopt(spelling, std::move(*plan), std::move(*charge));
}

std::optional<OpenedStore> StoreTable::OpenKnown(const protocol::Digest& spelling, const std::string& name) {
  const auto known = spellings_.find(spelling);
  if (known == spellings_.end()) return std::nullopt;
  return Attach(known->second->shared_from_this(), name);
}

Result<OpenedStore> StoreTable::Adopt(const protocol::Digest& spelling, std::unique_ptr<const quantizers::Plan> plan,
                                      Charge charge) {
  const std::string name = plan->spec().name;
  auto entry = stores_.find(IdentityDigest(IdentityFields(*plan)));
  const bool created = entry == stores_.end();
  if (created) {
    Result<std::shared_ptr<Store>> store = Store::Create(core_, std::move(plan), std::move(charge));
    if (!store) return store.error();
    entry = stores_.emplace((*store)->identity(), *store).first;
  }
  for (const protocol::Digest& forgotten : entry->second->AddSpelling(spelling)) spellings_.erase(forgotten);
  spellings_[spelling] = entry->second.get();
  OpenedStore opened = Attach(entry->second, name);
  opened.created = created;
  return opened;
}

void StoreTable::Add(const std::shared_ptr<Store>& store) {
  KVANT_CHECK(!Has(store->identity()) && !store->empty(), store->name());
  stores_.emplace(store->identity(), store);
  Label(store->spec().name, *store);
  const protocol::Digest spelling = SpellingDigest(store->spec());
  store->AddSpelling(spelling);
  spellings_[spelling] = store.get();
}

OpenedStore StoreTable::Attach(const std::shared_ptr<Store>& store, const std::string& name) {
  store->Opened();
  return {.store = store, .created = false, .relabelled = Label(name, *store)};
}

Result<Charge> StoreTable::TakeMetadata(std::size_t bytes, std::string_view what) {
  for (;;) {
    Result<Charge> charge = core_.budget.Take(ChargeKind::kMetadata, bytes, what);
    if (charge || !MakeRoom(bytes)) return charge;
  }
}

bool StoreTable::Label(const std::string& name, Store& store) {
  const auto held = labels_.find(name);
  Store* const before = held == labels_.end() ? nullptr : held->second;
  if (before == &store) {
    store.AddName(name);
    return false;
  }
  if (before != nullptr) {
    before->RemoveName(name);
    if (core_.notify) {
      core_.notify("open store " + name + ": the name meant another identity until now: " +
                   IdentityDifference(before->identity_fields(), store.identity_fields()));
    }
  }
  labels_[name] = &store;
  for (const std::string& forgotten : store.AddName(name)) labels_.erase(forgotten);
  return before != nullptr;
}

void StoreTable::Close(std::shared_ptr<Store> store) {
  store->Closed();
  const auto held = stores_.find(store->identity());
  if (held == stores_.end() || held->second != store) return;  // dropped meanwhile
  store.reset();
  if (held->second->openers() == 0 && held->second->empty()) Erase(held->second);
}

void StoreTable::Erase(const std::shared_ptr<Store>& store) {
  for (const std::string& name : store->names()) labels_.erase(name);
  for (const protocol::Digest& spelling : store->spellings()) spellings_.erase(spelling);
  AddFigures(dropped_, store->counters(), kCounters);
  store->MarkDropped();
  stores_.erase(store->identity());
}

Result<Store*> StoreTable::Find(std::string_view name) const {
  if (const auto entry = labels_.find(name); entry != labels_.end()) return entry->second;
  for (const auto& [identity, store] : stores_) {
    if (protocol::DigestHex(identity) == name) return store.get();
  }
  return Error{ErrorCode::kNotFound, "no store has the name or identity '" + std::string(name) + "'"};
}

std::vector<Store*> StoreTable::stores() const {
  std::vector<Store*> list;
  for (const auto& [identity, store] : stores_) list.push_back(store.get());
  std::ranges::sort(list, {}, [](const Store* store) -> const std::string& { return store->name(); });
  return list;
}

Result<EvictFigures> StoreTable::Drop(std::string_view store) {
  Result<Store*> found = Find(store);
  if (!found) return found.error();
  if ((*found)->sequences() != 0) {
    return Error{ErrorCode::kUnavailable, "drop store " + (*found)->name() + ": " + std::to_string((*found)->sequences()) +
                                              " sequences of it are open; close them or end their clients first"};
  }
  const EvictFigures figures = (*found)->Evict(0, false);
  const std::shared_ptr<Store> kept = stores_.at((*found)->identity());
  Erase(kept);
  return figures;
}

Result<EvictFigures> StoreTable::Evict(std::string_view store, std::uint64_t max_blocks, bool dry_run) {
  if (!store.empty()) {
    Result<Store*> found = Find(store);
    if (!found) return found.error();
    return (*found)->Evict(max_blocks, dry_run);
  }
  EvictFigures sum;
  if (dry_run) {
    for (const auto& [identity, each] : stores_) {
      if (max_blocks != 0 && sum.blocks == max_blocks) break;
      const EvictFigures part = each->Evict(max_blocks == 0 ? 0 : max_blocks - sum.blocks, true);
      sum.blocks += part.blocks;
      sum.bytes += part.bytes;
    }
    return sum;
  }
  while (Block* const oldest = core_.eviction.blocks.oldest()) {
    if (max_blocks != 0 && sum.blocks == max_blocks) break;
    ++sum.blocks;
    sum.bytes += oldest->store->SlotBytesOf(*oldest);
    oldest->store->Evict(*oldest);
  }
  for (auto it = stores_.begin(); it != stores_.end();) {
    const std::shared_ptr<Store>& each = (it++)->second;
    each->GiveBack(~std::size_t{0});
    if (each->openers() == 0 && each->empty()) Erase(each);
  }
  return sum;
}

void StoreTable::DropStrayPages() {
  for (const auto& [identity, store] : stores_) store->pool().DropStrayPages();
}

StoreFigures StoreTable::Totals() const {
  StoreFigures sum;
  AddFigures(sum.counters, dropped_, kCounters);
  for (const auto& [identity, store] : stores_) {
    const StoreFigures part = store->Figures();
    AddFigures<StoreGauges>(sum, part, kStoreGauges);
    AddFigures(sum.counters, part.counters, kCounters);
  }
  return sum;
}

bool StoreTable::MakeRoom(std::size_t bytes) {
  const EvictionOrder& order = core_.eviction;
  for (const auto& [since, store] : order.warm_stores) {
    if (store->GiveBack(bytes)) return true;  // false only while jobs populate all of its warm slots
  }
  // Blocks and stores that hold nothing go by when they were last used, whichever it is.
  Block* const block = order.blocks.oldest();
  Store* const store = order.empty_stores.oldest();
  if (block != nullptr && (store == nullptr || block->last_use < store->last_use())) {
    block->store->Evict(*block);
    return true;
  }
  if (store == nullptr) return false;
  Erase(store->shared_from_this());
  return true;
}

}  // namespace kvant::daemon
