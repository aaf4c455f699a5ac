// All stores of a daemon.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <kvant/result.h>
#include <kvant/store_spec.h>

#include "daemon/store/block_selection.h"
#include "daemon/store/core.h"
#include "daemon/store/pins.h"
#include "daemon/store/standing_rules.h"
#include "daemon/store/stats.h"
#include "daemon/store/store.h"

namespace kvant::daemon {

struct OpenedStore {
  std::shared_ptr<Store> store;
  bool created = false;
  bool relabelled = false;  ///< the name meant a store of another identity until now
};

/// Tenants, and the stores of each by identity. A name is a label: it means the store it was last opened with, several names
/// may mean one store, and no name is ever taken. A store keeps its blocks when its name moves on; it then answers to its
/// identity alone.
///
/// Stores that hold nothing go by themselves: at once when the last session that had one open closes it, and open ones too,
/// least recently used first, when there is no other room. Owned by the daemon; loop thread. `core` outlives it.
class StoreTable {
 public:
  explicit StoreTable(Core& core);
  ~StoreTable();
  StoreTable(const StoreTable&) = delete;
  StoreTable& operator=(const StoreTable&) = delete;

  /// The tenant of that name; made on first sight.
  [[nodiscard]] const std::shared_ptr<Tenant>& FindTenant(const std::string& name);
  /// By name.
  [[nodiscard]] const std::map<std::string, std::shared_ptr<Tenant>>& tenants() const noexcept { return tenants_; }
  /// Whose stores callers that name none open: an embedder's, a test's.
  static constexpr const char* kNobody = "default";

  /// Attaches to the store that was opened by a spec of that spelling before, or creates the store of that identity, or
  /// attaches to it; labels it with the spec's name. Checks the whole spec first; errors name the field. Where the name meant
  /// another identity, the answer only says so and Core::notify says what differs. The store counts as open until Close.
  Result<OpenedStore> Open(const StoreSpec& spec, const std::string& tenant = kNobody);
  /// Ends one Open.
  void Close(std::shared_ptr<Store> store);

  /// Takes `bytes` for records of a caller that has no store yet from its tenant's budget, making room if need be. kStoreFull
  /// if there is none.
  Result<Charge> TakeRecord(Tenant& tenant, ChargeKind kind, std::size_t bytes, std::string_view what);

  /// Open in steps, for a daemon that makes plans on another thread: CheckStoreSpec, OpenKnown, or else ChargeRecord,
  /// Plan::Make, Adopt. Attaches to the store that was opened by this spelling (SpellingDigest) before; needs no plan. Nothing
  /// if there is none.
  std::optional<OpenedStore> OpenKnown(Tenant& tenant, const protocol::Digest& spelling, const std::string& name);
  /// Room for the record and plan of a store of this spec with an artifact of so many bytes, made if need be. kStoreFull if
  /// there is none.
  Result<Charge> ChargeRecord(Tenant& tenant, const StoreSpec& spec, std::size_t artifact_bytes);
  /// What Open does once the plan is made. Another session may have created the store meanwhile.
  Result<OpenedStore> Adopt(const std::shared_ptr<Tenant>& tenant, const protocol::Digest& spelling,
                            std::unique_ptr<const quantizers::Plan> plan, Charge charge);

  /// Takes in a store that was restored, under its name and of its tenant. Nobody has it open. Requires: its tenant has none of
  /// its identity, it is not empty.
  void Add(const std::shared_ptr<Store>& store);
  [[nodiscard]] static bool Has(const Tenant& tenant, const protocol::Digest& identity) {
    return tenant.stores.contains(identity);
  }

  /// By name, or by identity in hexadecimal, of one tenant or, if `tenant` is empty, of any. kNotFound if no store has it,
  /// kInvalidArgument, naming them, if stores of several tenants have.
  [[nodiscard]] Result<Store*> Find(std::string_view name, std::string_view tenant = {}) const;
  [[nodiscard]] std::vector<Store*> stores() const;  ///< by name, then by tenant

  /// Evicts what nobody holds of the selection, or with `dry_run` says what would go; their memory is given back. Held blocks
  /// of a selected sequence go as soon as nobody holds them, unless somebody finds them before. Errors as SelectBlocks.
  Result<EvictFigures> Evict(const BlockSelection& selection, bool dry_run);

  /// Sets a tenant's quota (Budget::kUnlimited: none) and evicts what of it nobody holds until it is within.
  void Limit(Tenant& tenant, std::size_t bytes);

  [[nodiscard]] Pins& pins() noexcept { return pins_; }

  // ---- What operators set. It holds for a store also when that goes and comes again, and Core::keeper has it for the daemon
  // after this one.

  /// As Limit.
  void SetQuota(Tenant& tenant, std::size_t bytes);
  /// As Store::Limit and set_ttl_ms; what is not given stays as it is.
  void SetQuota(Store& store, std::optional<std::size_t> bytes, std::optional<std::uint64_t> ttl_ms);
  /// As Pins::Add and Remove.
  Result<PinFigures> Pin(const std::vector<Block*>& blocks, std::chrono::milliseconds time);
  Result<void> Unpin(std::uint64_t pin);
  /// What the daemon before this one was told, once its stores are here.
  void TakeOver(NumberedRules rules);
  [[nodiscard]] Core& core() noexcept { return core_; }

  /// Drops a store with all its blocks. kUnavailable if sequences of it are open. Sessions that have it open must open it
  /// again.
  Result<EvictFigures> Drop(std::string_view store, std::string_view tenant = {});

  /// A step of the daemon that looks after room: evicts what has outlived its time, then keeps `reserve` bytes of the budget
  /// free or warm, so that appends find room without evicting first. Returns how many blocks went, `most` at most: more may be
  /// due.
  std::uint64_t Tend(std::size_t reserve, std::uint64_t most);

  /// Sums over all stores; counters include those of stores that were dropped.
  [[nodiscard]] StoreFigures Totals() const;

  /// See Slab::DropStrayPages.
  void DropStrayPages();

 private:
  /// As Core::make_room, of what `scope` holds.
  bool MakeRoom(EvictionScope& scope, std::size_t bytes);
  static OpenedStore Attach(Tenant& tenant, const std::shared_ptr<Store>& store, const std::string& name);
  /// True if the name meant another store.
  static bool Label(Tenant& tenant, const std::string& name, Store& store);
  void Erase(const std::shared_ptr<Store>& store);
  void ApplyRules(Store& store);
  void RestorePin(std::uint64_t id, const StandingRules::Pin& pin);
  void KeepRules();

  Core& core_;
  std::map<std::string, std::shared_ptr<Tenant>> tenants_;
  Counters dropped_;
  Pins pins_{core_};  // before the stores go
  NumberedRules rules_;
  protocol::UniqueFd rules_fd_;  // of the segment that the keeper has
  Charge rules_charge_;
};

}  // namespace kvant::daemon
