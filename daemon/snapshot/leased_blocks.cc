#include "daemon/snapshot/leased_blocks.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

namespace kvant::daemon {

Result<std::unique_ptr<LeasedBlocks>> LeasedBlocks::Of(std::shared_ptr<Store> store, const Sequence* sequence) {
  std::unique_ptr<LeasedBlocks> held(new LeasedBlocks(std::move(store)));
  Store& from = held->store();
  std::vector<Block*> blocks;
  if (sequence == nullptr) {
    blocks = from.index().blocks();
    std::ranges::sort(blocks, {}, &Block::first_position);
    for (Block* block : blocks) {
      if (block->first_child == nullptr) held->Lease(*block);
    }
  } else {
    blocks.assign(sequence->blocks().begin(), sequence->blocks().end());
    if (!blocks.empty()) held->Lease(*blocks.back());
  }
  // After the leases: making room must not take these blocks.
  constexpr std::size_t kRecordBytes = sizeof(Entry) + sizeof(Block*);
  auto charge = from.TakeRecord(ChargeKind::kBlockRecord, blocks.size() * kRecordBytes, "the list of blocks to save");
  if (!charge) return charge.error();
  held->charge_ = std::move(*charge);
  held->entries_.reserve(blocks.size());
  std::unordered_map<const Block*, std::uint64_t> numbers;
  for (Block* block : blocks) {
    const std::uint64_t parent = block->parent == nullptr ? kNoParent : numbers.at(block->parent);
    numbers.emplace(block, held->entries_.size());
    held->entries_.push_back({.block = block, .parent = parent, .state = block->state});
  }
  return held;
}

void LeasedBlocks::Lease(Block& block) {
  store_->index().AddLease(block);
  leased_.push_back(&block);
}

LeasedBlocks::~LeasedBlocks() {
  // What was used longest ago before is so afterwards.
  std::ranges::sort(leased_, {}, [](const Block* block) { return block->retention.last_use; });
  for (Block* block : leased_) store_->index().DropLease(*block);
}

}  // namespace kvant::daemon
