#include "daemon/store/eviction_order.h"

#include "daemon/store/prefix_index.h"

namespace kvant::daemon {

Block* EvictionOrder::Victim(const Ranking& candidates) {
  for (int spared = 0;; ++spared) {
    const EvictionPolicy::Choice choice = policy_->Choose(candidates, blocks_);
    if (choice.block == nullptr || !choice.spare) return choice.block;
    choice.block->index->Rerank(*choice.block);
    if (spared == kMostSpared) return choice.block;
  }
}

namespace {

/// From the leaf towards the beginning, as long as nobody else continues a block: the first one with more than `sections`. Null
/// if there is none.
Block* FirstFine(Block& leaf, std::size_t sections) {
  for (Block* block = &leaf; block != nullptr && block->leases == 0; block = block->parent) {
    if (block != &leaf && block->first_child->next_sibling != nullptr) return nullptr;  // others continue it, too
    if (block->codes().sections > sections) return block;
  }
  return nullptr;
}

}  // namespace

EvictionOrder::Demotion EvictionOrder::NextDemotion(const Ranking& fine) {
  if (demote_to == 0 || 2 * coarse_blocks >= blocks_) return {};
  while (Block* const leaf = fine.first()) {
    if (Block* const block = FirstFine(*leaf, demote_to)) return {leaf, block};
    leaf->index->NoteCoarse(*leaf);
  }
  return {};
}

}  // namespace kvant::daemon
