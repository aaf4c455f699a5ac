// Sealed blocks by the chain of tokens that leads to them, and which of them may be evicted next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

#include "daemon/store/block.h"
#include "daemon/store/eviction_order.h"
#include "protocol/segment_layout.h"

namespace kvant::daemon {

/// A forest of blocks: roots at position 0. A lease on a block keeps it and so all its ancestors. Evictable are blocks without
/// leases and children: EvictionPolicy says in which order. Loop thread; owned by a store, which frees slots of blocks taken
/// out.
class PrefixIndex {
 public:
  /// Both outlive the index, which keeps its evictable blocks in their scopes; `tenant` may be null.
  explicit PrefixIndex(EvictionOrder& order, EvictionScope* tenant = nullptr) : order_(order), tenant_(tenant) {}
  ~PrefixIndex();
  PrefixIndex(const PrefixIndex&) = delete;
  PrefixIndex& operator=(const PrefixIndex&) = delete;

  /// The block named `chain` that follows `parent` (null: a first block) and holds exactly `tokens`; null if there is none.
  /// Parent and tokens are compared, so a collision of digests is a miss.
  [[nodiscard]] Block* Find(const Block* parent, const protocol::Digest& chain, std::span<const std::uint32_t> tokens) const;

  /// The chain of blocks that holds the longest prefix of `tokens` in whole blocks of `block_tokens`. `root`: identity digest.
  [[nodiscard]] std::vector<Block*> LongestPrefix(const protocol::Digest& root, std::span<const std::uint32_t> tokens,
                                                  std::uint32_t block_tokens) const;

  /// A block and all that continue it, parents first.
  [[nodiscard]] static std::vector<Block*> WithContinuations(Block& root);

  /// Adds a block without leases; its priority counts. Requires: Find of the same finds nothing, and block->parent is in the
  /// index.
  Block* Insert(std::unique_ptr<Block> block);
  /// The block was found by somebody who asks for that priority.
  void NoteUse(Block& block, std::uint32_t priority);

  void AddLease(Block& block);
  void DropLease(Block& block);  ///< Requires: block.leases > 0.

  /// The evictable block of this index that was used longest ago; null if none is evictable.
  [[nodiscard]] Block* oldest() const noexcept { return idle_.empty() ? nullptr : idle_.begin()->second; }
  /// All that are evictable, as the policy ranks them.
  [[nodiscard]] const Ranking& evictable() const noexcept { return ranking_; }
  /// Those of them that may be made smaller instead.
  [[nodiscard]] const Ranking& fine() const noexcept { return fine_; }
  /// There is nothing to be made smaller at this one's end, until it is used again. Requires: it is evictable.
  void NoteCoarse(Block& block);
  /// Takes the block out of the rankings and in again. Requires: it is evictable.
  void Rerank(Block& block);
  /// Takes out a block. Requires: it is evictable.
  std::unique_ptr<Block> TakeOut(Block& block);

  /// Makes all blocks count as used now, those sealed first before the others. Requires: no leases.
  void OrderByGeneration();

  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] std::size_t leased_blocks() const noexcept { return leased_blocks_; }
  [[nodiscard]] std::uint64_t leases() const noexcept { return leases_; }
  [[nodiscard]] std::vector<Block*> blocks() const;  ///< in no order

 private:
  struct DigestHash {
    std::size_t operator()(const protocol::Digest& digest) const noexcept;
  };
  static void Unlink(Block& block) noexcept;
  void NoteTime(Block& block);
  void UpdateEvictable(Block& block, bool evictable);
  void RemoveFine(const Block& block);

  EvictionOrder& order_;
  EvictionScope* const tenant_;
  // Multi: blocks with colliding digests live side by side.
  std::unordered_multimap<protocol::Digest, std::unique_ptr<Block>, DigestHash> blocks_;
  std::set<std::pair<std::uint64_t, Block*>> idle_;  // evictable ones, by last_use
  Ranking ranking_;                                  // the same, by rank
  Ranking fine_;                                     // of those, as EvictionScope::fine
  std::size_t size_ = 0;
  std::size_t leased_blocks_ = 0;
  std::uint64_t leases_ = 0;
};

}  // namespace kvant::daemon
