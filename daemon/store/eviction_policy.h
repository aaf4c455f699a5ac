// Which of the blocks that may go goes first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include <kvant/eviction.h>
#include <kvant/result.h>

#include "daemon/store/retention.h"

namespace kvant::daemon {

struct Block;

/// Blocks by rank, least first. Adding, removing and finding the least take logarithmic time.
class Ranking {
 public:
  void Add(Block& block, Rank rank) { blocks_.emplace(rank, &block); }
  void Remove(const Block& block, Rank rank) { blocks_.erase({rank, const_cast<Block*>(&block)}); }
  /// The first block of a tier >= `tier`; null if there is none.
  [[nodiscard]] Block* first(std::uint64_t tier = 0) const {
    const auto found = blocks_.lower_bound({Rank{tier, 0}, nullptr});
    return found == blocks_.end() ? nullptr : found->second;
  }
  [[nodiscard]] std::size_t size() const noexcept { return blocks_.size(); }
  [[nodiscard]] auto begin() const noexcept { return blocks_.begin(); }
  [[nodiscard]] auto end() const noexcept { return blocks_.end(); }

 private:
  std::set<std::pair<Rank, Block*>> blocks_;
};

/// The one place that chooses. Blocks that are leased, pinned or have children are never asked about: a Ranking holds the
/// others. A policy says where a block stands in it, for as long as nobody uses the block, and may spare the block that stands
/// first by giving it another rank (Choice::spare): so second chances are the policy's and the bookkeeping is not. Made for a
/// daemon; one order holds for all its stores and tenants, whose quotas look at parts of it. `blocks`: how many sealed ones
/// there are, of all stores. What is done with a chosen block is the caller's business: to evict it, or to make it smaller.
/// Loop thread.
class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;

  struct Choice {
    Block* block = nullptr;  ///< null: nothing may go
    bool spare = false;      ///< not this time: rank it anew and choose again
  };

  /// A block was sealed.
  virtual void Inserted(Block& block, std::size_t blocks) = 0;
  /// A block was found by somebody who now holds it (Retention::Use has been called).
  virtual void Used(Block& block, std::size_t blocks) = 0;
  /// The place of a block that nobody holds any more, or that was spared.
  [[nodiscard]] virtual Rank RankOf(const Block& block) const = 0;
  /// Among `candidates`, all blocks that may go or those of one store or tenant. May change a block that it spares.
  virtual Choice Choose(const Ranking& candidates, std::size_t blocks) = 0;
  /// A block goes, whoever chose it.
  virtual void Evicted(Block& block, std::size_t blocks) = 0;
};

std::unique_ptr<EvictionPolicy> MakeEvictionPolicy(EvictionKind kind);

}  // namespace kvant::daemon
