// What all stores of a daemon share.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "daemon/memory/budget.h"
#include "daemon/memory/job_runner.h"
#include "daemon/store/sequence_table.h"
#include "quantizers/registry.h"

namespace kvant::daemon {

class Store;

/// Made by whoever builds the daemon (or a test); outlives every store and sequence. Loop thread.
struct Core {
  Budget& budget;
  JobRunner& encode;    ///< seals blocks
  JobRunner& populate;  ///< touches fresh pages ahead of need
  const quantizers::Registry& codecs;
  const std::uint64_t boot_token;  ///< differs between any two daemon processes

  SequenceTable sequences{boot_token};
  std::uint64_t next_generation = 1;  ///< of slot uses; never repeats

  /// Gives bytes back to the budget by dropping unleased blocks of stores other than `asker` until `bytes` are available; false
  /// if that cannot be. Set by StoreTable.
  std::function<bool(std::size_t bytes, const Store* asker)> reclaim = nullptr;

  /// Tells the operator something that a store has found, once; may be null. Set by the server.
  std::function<void(const std::string& message)> warn = nullptr;
};

}  // namespace kvant::daemon
