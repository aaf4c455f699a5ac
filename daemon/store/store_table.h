// All stores of a daemon.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
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
  bool relabelled = false;  ///< the name meant a store of another identity until now
};

/// Stores by identity. A name is a label: it means the store it was last opened with, several names may mean one store, and no
/// name is ever taken. A store keeps its blocks when its name moves on; it then answers to its identity alone.
///
/// Stores that hold nothing go by themselves: at once when the last session that had one open closes it, and open ones too,
/// least recently used first, when there is no other room. Owned by the daemon; loop thread. `core` outlives it.
class StoreTable {
 public:
  explicit StoreTable(Core& core);
  ~StoreTable();
  StoreTable(const StoreTable&) = delete;
  StoreTable& operator=(const StoreTable&) = delete;

  /// Attaches to the store that was opened by a spec of that spelling before, or creates the store of that identity, or
  /// attaches to it; labels it with the spec's name. Checks the whole spec first; errors name the field. Where the name meant
  /// another identity, the answer only says so and Core::notify says what differs. The store counts as open until Close.
  Result<OpenedStore> Open(const StoreSpec& spec);
  /// Ends one Open.
  void Close(std::shared_ptr<Store> store);

  /// Takes `bytes` of metadata for a caller that has no store yet, making room if need be. kStoreFull if there is none.
  Result<Charge> TakeMetadata(std::size_t bytes, std::string_view what);

  /// Open in steps, for a daemon that makes plans on another thread: CheckStoreSpec, OpenKnown, or else ChargeRecord,
  /// Plan::Make, Adopt. Attaches to the store that was opened by this spelling (SpellingDigest) before; needs no plan. Nothing
  /// if there is none.
  std::optional<OpenedStore> OpenKnown(const protocol::Digest& spelling, const std::string& name);
  /// Room for the record and plan of a store of this spec with an artifact of so many bytes, made if need be. kStoreFull if
  /// there is none.
  Result<Charge> ChargeRecord(const StoreSpec& spec, std::size_t artifact_bytes);
  /// What Open does once the plan is made. Another session may have created the store meanwhile.
  Result<OpenedStore> Adopt(const protocol::Digest& spelling, std::unique_ptr<const quantizers::Plan> plan, Charge charge);

  /// Takes in a store that was restored, under its name. Nobody has it open. Requires: none of its identity is here, it is not
  /// empty.
  void Add(const std::shared_ptr<Store>& store);
  [[nodiscard]] bool Has(const protocol::Digest& identity) const { return stores_.contains(identity); }

  /// By name, or by identity in hexadecimal. kNotFound if no store has it.
  [[nodiscard]] Result<Store*> Find(std::string_view name) const;
  [[nodiscard]] std::vector<Store*> stores() const;  ///< by name

  /// `store` empty: every store. kNotFound for an unknown one.
  Result<EvictFigures> Evict(std::string_view store, std::uint64_t max_blocks, bool dry_run);

  /// Drops a store with all its blocks. kUnavailable if sequences of it are open. Sessions that have it open must open it
  /// again.
  Result<EvictFigures> Drop(std::string_view store);

  /// Sums over all stores; counters include those of stores that were dropped.
  [[nodiscard]] StoreFigures Totals() const;

  /// See Slab::DropStrayPages.
  void DropStrayPages();

 private:
  bool MakeRoom(std::size_t bytes);  // as Core::make_room
  OpenedStore Attach(const std::shared_ptr<Store>& store, const std::string& name);
  /// True if the name meant another store.
  bool Label(const std::string& name, Store& store);
  void Erase(const std::shared_ptr<Store>& store);

  Core& core_;
  std::map<protocol::Digest, std::shared_ptr<Store>> stores_;
  std::map<std::string, Store*, std::less<>> labels_;
  std::map<protocol::Digest, Store*> spellings_;
  Counters dropped_;
};

}  // namespace kvant::daemon
