// The part of StoreTable that keeps what operators set, for stores that go and come and for the daemon after this one.
#include <algorithm>
#include <cerrno>
#include <string>
#include <utility>

#include <unistd.h>

#include "daemon/store/store_table.h"
#include "protocol/digest.h"
#include "protocol/memfd.h"
#include "protocol/system_error.h"

namespace kvant::daemon {
namespace {

Result<protocol::UniqueFd> WriteSegment(const std::vector<std::byte>& bytes) {
  Result<protocol::UniqueFd> fd = protocol::CreateSealedMemfd("kvant-rules", bytes.size());
  if (fd && ::pwrite(fd->get(), bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    return protocol::SystemError("write " + std::to_string(bytes.size()) + " bytes", errno);
  }
  return fd;
}

}  // namespace

void StoreTable::SetQuota(Tenant& tenant, std::size_t bytes) {
  rules_.rules.tenant_limits[tenant.name] = bytes;
  Limit(tenant, bytes);
  KeepRules();
}

void StoreTable::SetQuota(Store& store, std::optional<std::size_t> bytes, std::optional<std::uint64_t> ttl_ms) {
  StandingRules::StoreRule& rule = rules_.rules.stores[{store.tenant()->name, store.identity()}];
  if (bytes) rule.limit_bytes = *bytes;
  if (ttl_ms) rule.ttl_ms = *ttl_ms;
  ApplyRules(store);
  KeepRules();
}

Result<PinFigures> StoreTable::Pin(const std::vector<Block*>& blocks, std::chrono::milliseconds time) {
  Result<PinFigures> pin = pins_.Add(blocks, time);
  if (pin) KeepRules();
  return pin;
}

Result<void> StoreTable::Unpin(std::uint64_t pin) {
  Result<void> gone = pins_.Remove(pin);
  if (gone) KeepRules();
  return gone;
}

void StoreTable::ApplyRules(Store& store) {
  const auto rule = rules_.rules.stores.find({store.tenant()->name, store.identity()});
  if (rule == rules_.rules.stores.end()) return;
  if (rule->second.ttl_ms) store.set_ttl_ms(*rule->second.ttl_ms);
  if (rule->second.limit_bytes) store.Limit(static_cast<std::size_t>(*rule->second.limit_bytes));
}

void StoreTable::TakeOver(NumberedRules rules) {
  rules_ = std::move(rules);
  pins_.set_next(rules_.rules.next_pin);
  // Pins first: what is beyond a quota goes afterwards, and must not be what is pinned.
  for (const auto& [id, pin] : rules_.rules.pins) RestorePin(id, pin);
  for (const auto& [name, limit] : rules_.rules.tenant_limits) Limit(*FindTenant(name), static_cast<std::size_t>(limit));
  for (Store* const store : stores()) ApplyRules(*store);
  KeepRules();
}

void StoreTable::RestorePin(std::uint64_t id, const StandingRules::Pin& pin) {
  const auto tenant = tenants_.find(pin.tenant);
  if (tenant == tenants_.end() || pin.end_ms <= core_.eviction.now_ms) return;
  const auto store = tenant->second->stores.find(pin.store);
  if (store == tenant->second->stores.end()) return;
  std::vector<Block*> blocks = store->second->index().blocks();
  std::erase_if(blocks, [&](const Block* block) { return std::ranges::find(pin.ends, block->chain) == pin.ends.end(); });
  if (blocks.empty()) return;
  const auto left = std::min(std::chrono::milliseconds(pin.end_ms - core_.eviction.now_ms), Pins::kLongest);
  if (const auto restored = pins_.Add(blocks, left, id); !restored && core_.notify) {
    core_.notify("pin " + std::to_string(id) + " of store " + store->second->name() +
                 " does not outlive the daemon before: " + restored.error().message);
  }
}

/// A failure is told, and the segment before stays: the rules hold here all the same.
void StoreTable::KeepRules() {
  if (core_.keeper == nullptr) return;
  rules_.rules.pins = pins_.rules();
  rules_.rules.next_pin = pins_.next();
  ++rules_.number;
  protocol::UniqueFd now;
  Charge charge;
  if (!rules_.rules.empty()) {
    const std::vector<std::byte> bytes = WriteRules(rules_);
    Result<Charge> room = core_.budget.Take(ChargeKind::kMetadata, bytes.size(), "what operators have set");
    while (!room && MakeRoom(core_.eviction.all, bytes.size())) {
      room = core_.budget.Take(ChargeKind::kMetadata, bytes.size(), "what operators have set");
    }
    Result<protocol::UniqueFd> fd = room ? WriteSegment(bytes) : Result<protocol::UniqueFd>(room.error());
    if (!fd) {
      if (core_.notify) core_.notify("quotas and pins as they are now will not outlive this daemon: " + fd.error().message);
      return;
    }
    now = *std::move(fd);
    charge = *std::move(room);
    core_.keeper->Keep(now.get());
  }
  if (rules_fd_.valid()) core_.keeper->Release(rules_fd_.get());
  rules_fd_ = std::move(now);
  rules_charge_ = std::move(charge);
}

}  // namespace kvant::daemon
