// What all stores of a daemon share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>

#include "daemon/memory/budget.h"
#include "daemon/memory/job_runner.h"
#include "daemon/memory/keeper.h"
#include "daemon/store/event_stream.h"
#include "daemon/store/eviction_order.h"
#include "daemon/store/history.h"
#include "daemon/store/sequence_table.h"
#include "quantizers/registry.h"

namespace kvant::daemon {

/// Made by whoever builds the daemon (or a test); outlives every store and sequence. Loop thread.
struct Core {
  Budget& budget;
  JobRunner& encode;    ///< seals blocks
  JobRunner& populate;  ///< touches fresh pages ahead of need
  const quantizers::Registry& codecs;
  const std::uint64_t boot_token;  ///< differs between any two daemon processes

  Keeper* keeper = nullptr;  ///< of manifests and slabs beyond this process; null: they end with it

  SequenceTable sequences{boot_token};
  EvictionOrder eviction{};  ///< of the blocks of all stores
  History history{};
  EventStream events{};      ///< for operators who watch
  std::uint64_t ttl_ms = 0;  ///< blocks that nobody uses so long go; 0: they stay. A store may have another

  /// One step towards `bytes` of room in the daemon's budget: gives back warm slots, or evicts the block of all stores that the
  /// policy chooses, or drops a store that nobody uses. False if nothing is left to give, so that a caller who tries, makes
  /// room and tries again always ends. Set by StoreTable.
  std::function<bool(std::size_t bytes)> make_room = nullptr;
  /// The same of one tenant, for its quota.
  std::function<bool(EvictionScope& scope, std::size_t bytes)> make_room_in = nullptr;

  /// Tells operators what clients are not told; null: nobody listens. Set by the daemon, which writes it to its log.
  std::function<void(std::string_view event)> notify = nullptr;
};

}  // namespace kvant::daemon
