// What goes next when room is needed: of all stores, of one tenant's, of one store.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <utility>

#include "daemon/store/block.h"
#include "daemon/store/eviction_policy.h"

namespace kvant::daemon {

/// Stores by a time that each of them keeps: least first. 0 is no time: such ones are not there. Finding the least, adding and
/// removing take logarithmic time.
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

/// Whatever could make room under one budget: the daemon's or a tenant's. Kept by the stores and their indices.
struct EvictionScope {
  Ranking blocks;              ///< that may be evicted (no leases, no children)
  Ranking fine;                ///< of those, the ones that may be made smaller instead: see EvictionOrder::demote_to
  ByTime<Store> empty_stores;  ///< that hold nothing, by last use
  ByTime<Store> warm_stores;   ///< that have warm slots, by when they came to have them
};

/// The daemon's scope, its policy and its clocks. Loop thread.
class EvictionOrder {
 public:
  explicit EvictionOrder(EvictionKind kind = EvictionKind::kLru, std::size_t demote_cold_to = 0)
      : demote_to(demote_cold_to), policy_(MakeEvictionPolicy(kind)) {}

  /// The time of a use: larger is later, never the same twice, never 0.
  std::uint64_t NextUse() noexcept { return ++uses_; }

  /// The block that the policy lets go first; null if none may go.
  [[nodiscard]] Block* Victim(const Ranking& candidates);
  /// What is to be made smaller before any of `fine` goes: the coldest of them or, where that has no more to give, a block that
  /// it alone continues. Null if nothing is to be. The daemon's blocks are demoted from the cold end of the ranking up to the
  /// middle: the half that was wanted most lately stays as it was sealed.
  struct Demotion {
    Block* leaf = nullptr;   ///< where it stands in the ranking
    Block* block = nullptr;  ///< to be cut down to demote_to sections
  };
  [[nodiscard]] Demotion NextDemotion(const Ranking& fine);

  /// For indices: the policy, and what it may know.
  [[nodiscard]] EvictionPolicy& policy() noexcept { return *policy_; }
  [[nodiscard]] std::size_t blocks() const noexcept { return blocks_; }
  void CountBlock() noexcept { ++blocks_; }
  void UncountBlock() noexcept { --blocks_; }

  /// Sections of their codes that cold blocks keep (quantizers::Plan::sections); 0: blocks stay whole until they go.
  const std::size_t demote_to;
  std::uint64_t coarse_blocks = 0;  ///< of all stores, that have lost sections; kept by the stores

  EvictionScope all;
  Ranking doomed;  ///< of those, the ones that an operator wants gone

  /// Monotonic time in ms, told by whoever runs the daemon now and then; any origin. Wall clocks are not looked at, so that a
  /// machine whose date jumps loses nothing.
  std::uint64_t now_ms = 0;

 private:
  /// Second chances in one search: beyond, the next block goes whatever the policy says, so that a search has an end in sight.
  static constexpr int kMostSpared = 64;

  std::unique_ptr<EvictionPolicy> policy_;
  std::uint64_t uses_ = 0;
  std::size_t blocks_ = 0;
};

}  // namespace kvant::daemon
