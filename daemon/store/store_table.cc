#include "daemon/store/store_table.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "daemon/memory/check.h"
#include "protocol/digest.h"

namespace kvant::daemon {
namespace {

/// A small cache is worth more than a reserve: so many blocks go only when their room is needed.
constexpr std::size_t kAlwaysKept = 32;

/// Every store, in no order.
template <typename Visit>
void ForEachStore(const std::map<std::string, std::shared_ptr<Tenant>>& tenants, const Visit& visit) {
  for (const auto& [name, tenant] : tenants) {
    for (const auto& [identity, store] : tenant->stores) visit(*store);
  }
}

}  // namespace

StoreTable::StoreTable(Core& core) : core_(core) {
  core_.make_room = [this](std::size_t bytes) { return MakeRoom(core_.eviction.all, bytes); };
  core_.make_room_in = [this](EvictionScope& scope, std::size_t bytes) { return MakeRoom(scope, bytes); };
}

StoreTable::~StoreTable() {
  if (core_.keeper != nullptr && rules_fd_.valid()) core_.keeper->Release(rules_fd_.get());
  core_.make_room = nullptr;
  core_.make_room_in = nullptr;
  for (const auto& [name, tenant] : tenants_) tenant->stores.clear();  // a store and its tenant hold each other
}

const std::shared_ptr<Tenant>& StoreTable::FindTenant(const std::string& name) {
  std::shared_ptr<Tenant>& tenant = tenants_[name];
  if (tenant == nullptr) tenant = std::make_shared<Tenant>(name, core_.budget);
  return tenant;
}

Result<Charge> StoreTable::ChargeRecord(Tenant& tenant, const StoreSpec& spec, std::size_t artifact_bytes) {
  return TakeRecord(tenant, ChargeKind::kStoreRecord, Store::RecordBytes(core_.codecs, spec, artifact_bytes),
                    "the record of store " + spec.name);
}

Result<OpenedStore> StoreTable::Open(const StoreSpec& spec, const std::string& tenant) {
  if (auto ok = quantizers::CheckStoreSpec(spec); !ok) return ok.error();
  const std::shared_ptr<Tenant> owner = FindTenant(tenant);
  const protocol::Digest spelling = SpellingDigest(spec);
  if (auto known = OpenKnown(*owner, spelling, spec.name)) return *std::move(known);
  Result<Charge> charge = ChargeRecord(*owner, spec, spec.plan.artifact.size());
  if (!charge) return charge.error();
  Result<std::unique_ptr<const quantizers::Plan>> plan = quantizers::Plan::Make(core_.codecs, spec);
  if (!plan) return plan.error();
  return Adopt(owner, spelling, std::move(*plan), std::move(*charge));
}

std::optional<OpenedStore> StoreTable::OpenKnown(Tenant& tenant, const protocol::Digest& spelling, const std::string& name) {
  const auto known = tenant.spellings.find(spelling);
  if (known == tenant.spellings.end()) return std::nullopt;
  return Attach(tenant, known->second->shared_from_this(), name);
}

Result<OpenedStore> StoreTable::Adopt(const std::shared_ptr<Tenant>& tenant, const protocol::Digest& spelling,
                                      std::unique_ptr<const quantizers::Plan> plan, Charge charge) {
  const std::string name = plan->spec().name;
  auto entry = tenant->stores.find(IdentityDigest(IdentityFields(*plan)));
  const bool created = entry == tenant->stores.end();
  if (created) {
    Result<std::shared_ptr<Store>> store = Store::Create(core_, std::move(plan), std::move(charge), tenant);
    if (!store) return store.error();
    entry = tenant->stores.emplace((*store)->identity(), *store).first;
    ApplyRules(**store);
    (*store)->TellOfStore("store_opened");
  }
  for (const protocol::Digest& forgotten : entry->second->AddSpelling(spelling)) tenant->spellings.erase(forgotten);
  tenant->spellings[spelling] = entry->second.get();
  OpenedStore opened = Attach(*tenant, entry->second, name);
  opened.created = created;
  return opened;
}

void StoreTable::Add(const std::shared_ptr<Store>& store) {
  Tenant* const tenant = store->tenant();
  KVANT_CHECK(tenant != nullptr && !Has(*tenant, store->identity()) && !store->empty(), store->name());
  tenant->stores.emplace(store->identity(), store);
  Label(*tenant, store->spec().name, *store);
  const protocol::Digest spelling = SpellingDigest(store->spec());
  store->AddSpelling(spelling);
  tenant->spellings[spelling] = store.get();
}

OpenedStore StoreTable::Attach(Tenant& tenant, const std::shared_ptr<Store>& store, const std::string& name) {
  store->Opened();
  return {.store = store, .created = false, .relabelled = Label(tenant, name, *store)};
}

Result<Charge> StoreTable::TakeRecord(Tenant& tenant, ChargeKind kind, std::size_t bytes, std::string_view what) {
  for (;;) {
    Result<Charge> charge = tenant.budget->Take(kind, bytes, what);
    if (charge) return charge;
    const bool quota = tenant.budget->own_available() < bytes;
    if (MakeRoom(quota ? tenant.scope : core_.eviction.all, bytes)) continue;
    ++(quota ? core_.history.room_refusals.tenant_quota : core_.history.room_refusals.budget);
    return charge;
  }
}

bool StoreTable::Label(Tenant& tenant, const std::string& name, Store& store) {
  const auto held = tenant.labels.find(name);
  Store* const before = held == tenant.labels.end() ? nullptr : held->second;
  if (before == &store) {
    store.AddName(name);
    return false;
  }
  if (before != nullptr) {
    before->RemoveName(name);
    if (store.core().notify) {
      store.core().notify("open store " + name + ": the name meant another identity until now: " +
                          IdentityDifference(before->identity_fields(), store.identity_fields()));
    }
  }
  tenant.labels[name] = &store;
  for (const std::string& forgotten : store.AddName(name)) tenant.labels.erase(forgotten);
  return before != nullptr;
}

void StoreTable::Close(std::shared_ptr<Store> store) {
  store->Closed();
  Tenant& tenant = *store->tenant();
  const auto held = tenant.stores.find(store->identity());
  if (held == tenant.stores.end() || held->second != store) return;  // dropped meanwhile
  store.reset();
  if (held->second->openers() == 0 && held->second->empty()) Erase(std::shared_ptr<Store>(held->second));
}

void StoreTable::Erase(const std::shared_ptr<Store>& store) {
  Tenant& tenant = *store->tenant();
  for (const std::string& name : store->names()) tenant.labels.erase(name);
  for (const protocol::Digest& spelling : store->spellings()) tenant.spellings.erase(spelling);
  AddFigures(dropped_, store->counters(), kCounters);
  store->TellOfStore("store_dropped");
  store->MarkDropped();
  tenant.stores.erase(store->identity());
}

Result<Store*> StoreTable::Find(std::string_view name, std::string_view tenant) const {
  Store* found = nullptr;
  std::string owners;
  for (const auto& [owner, of] : tenants_) {
    if (!tenant.empty() && owner != tenant) continue;
    Store* match = nullptr;
    if (const auto entry = of->labels.find(name); entry != of->labels.end()) match = entry->second;
    for (auto it = of->stores.begin(); match == nullptr && it != of->stores.end(); ++it) {
      if (protocol::DigestHex(it->first) == name) match = it->second.get();
    }
    if (match == nullptr) continue;
    found = match;
    owners += (owners.empty() ? "" : ", ") + owner;
  }
  const std::string what = "the name or identity '" + std::string(name) + "'";
  if (found == nullptr) {
    return Error{ErrorCode::kNotFound,
                 "no store" + (tenant.empty() ? std::string() : " of tenant " + std::string(tenant)) + " has " + what};
  }
  if (owners != found->tenant()->name) {
    return Error{ErrorCode::kInvalidArgument, "stores of several tenants have " + what + ": name one of " + owners};
  }
  return found;
}

std::vector<Store*> StoreTable::stores() const {
  std::vector<Store*> list;
  ForEachStore(tenants_, [&list](Store& store) { list.push_back(&store); });
  std::ranges::sort(list, {}, [](const Store* store) { return std::tie(store->name(), store->tenant()->name); });
  return list;
}

Result<EvictFigures> StoreTable::Drop(std::string_view store, std::string_view tenant) {
  Result<Store*> found = Find(store, tenant);
  if (!found) return found.error();
  if ((*found)->sequences() != 0) {
    return Error{ErrorCode::kUnavailable, "drop store " + (*found)->name() + ": " + std::to_string((*found)->sequences()) +
                                              " sequences of it are open; close them or end their clients first"};
  }
  pins_.RemoveOf(**found);
  const EvictFigures figures = (*found)->EvictAll();
  rules_.rules.stores.erase({(*found)->tenant()->name, (*found)->identity()});
  Erase((*found)->shared_from_this());
  KeepRules();
  return figures;
}

Result<EvictFigures> StoreTable::Evict(const BlockSelection& selection, bool dry_run) {
  Result<SelectedBlocks> selected = SelectBlocks(*this, selection);
  if (!selected) return selected.error();
  if (dry_run) return selected->figures;
  for (Block* const block : selected->order) block->store->Evict(*block);
  if (selection.sequence) {
    Result<std::vector<Block*>> left = MatchBlocks(*this, selection);
    for (Block* const block : *left) block->retention.doomed = block->leases != 0;
  }
  for (Store* const each : stores()) {
    each->GiveBack(~std::size_t{0});
    if (each->openers() == 0 && each->empty()) Erase(each->shared_from_this());
  }
  return selected->figures;
}

void StoreTable::Limit(Tenant& tenant, std::size_t bytes) {
  tenant.budget->set_own_limit(bytes);
  while (tenant.budget->used() > bytes && MakeRoom(tenant.scope, tenant.budget->used() - bytes)) {
  }
}

std::uint64_t StoreTable::Tend(std::size_t reserve, std::uint64_t most) {
  std::uint64_t gone = 0;
  pins_.Expire();
  for (; gone < most && core_.eviction.doomed.first() != nullptr; ++gone) {
    Block& block = *core_.eviction.doomed.first();
    block.store->Evict(block);
  }
  ForEachStore(tenants_, [&](Store& store) { gone += store.Expire(most - gone); });
  const auto free_bytes = [this] {
    std::size_t bytes = core_.budget.available();
    for (const auto& [since, store] : core_.eviction.all.warm_stores) bytes += store->pool().warm_bytes();
    return bytes;
  };
  for (; gone < most && free_bytes() < reserve; ++gone) {
    if (core_.eviction.all.blocks.size() <= kAlwaysKept) break;
    if (!Store::MakeWay(core_.eviction, core_.eviction.all.blocks, core_.eviction.all.fine)) break;
  }
  return gone;
}

void StoreTable::DropStrayPages() {
  ForEachStore(tenants_, [](Store& store) { store.pool().DropStrayPages(); });
}

StoreFigures StoreTable::Totals() const {
  StoreFigures sum;
  AddFigures(sum.counters, dropped_, kCounters);
  ForEachStore(tenants_, [&sum](const Store& store) {
    const StoreFigures part = store.Figures();
    AddFigures<StoreGauges>(sum, part, kStoreGauges);
    AddFigures(sum.counters, part.counters, kCounters);
  });
  return sum;
}

bool StoreTable::MakeRoom(EvictionScope& scope, std::size_t bytes) {
  for (const auto& [since, store] : scope.warm_stores) {
    if (store->GiveBack(bytes)) return true;  // false only while jobs populate all of its warm slots
  }
  // Blocks and stores that hold nothing go by when they were last used, whichever it is.
  const Block* const block = core_.eviction.Victim(scope.blocks);
  Store* const store = scope.empty_stores.oldest();
  if (block != nullptr && (store == nullptr || block->retention.last_use < store->last_use())) {
    return Store::MakeWay(core_.eviction, scope.blocks, scope.fine);
  }
  if (store == nullptr) return false;
  Erase(store->shared_from_this());
  return true;
}

}  // namespace kvant::daemon
