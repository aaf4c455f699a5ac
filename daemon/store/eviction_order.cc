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

}  // namespace kvant::daemon
