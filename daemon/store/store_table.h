// All stores of a daemon by name.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <kvant/result.h>
#include <kvant/store_spec.h>

#include "daemon/store/core.h"
#include "daemon/store/stats.h"
#include "daemon/store/store.h"

namespace kvant::daemon {

struct OpenedStore {
  std::shared_ptr<Store> store;
  bool created = false;
};

/// Owned by the daemon; loop thread. `core` outlives it.
class StoreTable {
 public:
  explicit StoreTable(Core& core);
  ~StoreTable();
  StoreTable(const StoreTable&) = delete;
  StoreTable& operator=(const StoreTable&) = delete;

  /// Creates the store, or attaches where one of that name exists and every field agrees. Else kIdentityMismatch: the message
  /// only says that it differs, Core::notify says where. Checks the whole spec first; errors name the field.
  Result<OpenedStore> Open(const StoreSpec& spec);

  /// Open in steps, for a daemon that makes plans on another thread: ChargeRecord, Plan::Make, Adopt.
  /// Room for the store's record and plan, made if need be. kStoreFull if there is none.
  Result<Charge> ChargeRecord(const StoreSpec& spec);
  /// What Open does once the plan is made. Another session may have created the store meanwhile.
  Result<OpenedStore> Adopt(std::unique_ptr<const quantizers::Plan> plan, Charge charge);

  /// kNotFound if no store has that name.
  [[nodiscard]] Result<Store*> Find(std::string_view name) const;
  [[nodiscard]] std::vector<Store*> stores() const;  ///< by name

  /// `store` empty: every store. kNotFound for an unknown one.
  Result<EvictFigures> Evict(std::string_view store, std::uint64_t max_blocks, bool dry_run);

  /// Sums over all stores; counters include those of stores that were dropped.
  [[nodiscard]] StoreFigures Totals() const;

 private:
  bool MakeRoom(std::size_t bytes);  // as Core::make_room

  Core& core_;
  std::map<std::string, std::shared_ptr<Store>, std::less<>> stores_;
  Counters dropped_;
};

}  // namespace kvant::daemon
