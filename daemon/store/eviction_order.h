// Which block of all stores goes next when room is needed.
#pragma once

#include <cstdint>
#include <set>
#include <utility>

#include "daemon/store/block.h"

namespace kvant::daemon {

/// Blocks of all stores that may be evicted (no leases, no children), by last use: least recently used first, whichever store
/// they belong to. Kept by the stores' indices. Loop thread.
class EvictionOrder {
 public:
  /// The time of a use: larger is later, never the same twice.
  std::uint64_t NextUse() noexcept { return ++uses_; }

  void Add(Block& block) { blocks_.emplace(block.last_use, &block); }
  void Remove(Block& block) { blocks_.erase({block.last_use, &block}); }
  /// Null if there is none.
  [[nodiscard]] Block* oldest() const noexcept { return blocks_.empty() ? nullptr : blocks_.begin()->second; }

 private:
  std::set<std::pair<std::uint64_t, Block*>> blocks_;
  std::uint64_t uses_ = 0;
};

}  // namespace kvant::daemon
