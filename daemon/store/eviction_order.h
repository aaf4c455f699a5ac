// What goes next when room is needed, of all stores.
#pragma once

#include <cstdint>
#include <set>
#include <utility>

#include "daemon/store/block.h"

namespace kvant::daemon {

/// Blocks or stores by a time that each of them keeps: least first. 0 is no time: such ones are not there. Finding the least,
/// adding and removing take logarithmic time.
template <typename T>
class ByTime {
 public:
  /// `from`: the time that it was put at last, `to`: the new one.
  void Move(T& item, std::uint64_t from, std::uint64_t to) {
    if (from == to) return;
    if (from != 0) items_.erase({from, &item});
    if (to != 0) items_.emplace(to, &item);
  }
  /// Null if there is none.
  [[nodiscard]] T* oldest() const noexcept { return items_.empty() ? nullptr : items_.begin()->second; }

  [[nodiscard]] auto begin() const noexcept { return items_.begin(); }
  [[nodiscard]] auto end() const noexcept { return items_.end(); }

 private:
  std::set<std::pair<std::uint64_t, T*>> items_;
};

/// Kept by the stores and their indices. Loop thread.
struct EvictionOrder {
  /// The time of a use: larger is later, never the same twice, never 0.
  std::uint64_t NextUse() noexcept { return ++uses; }

  ByTime<Block> blocks;        ///< that may be evicted (no leases, no children), by last use
  ByTime<Store> empty_stores;  ///< that hold nothing, by last use
  ByTime<Store> warm_stores;   ///< that have warm slots, by when they came to have them
  std::uint64_t uses = 0;
};

}  // namespace kvant::daemon
