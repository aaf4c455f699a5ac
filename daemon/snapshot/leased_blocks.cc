#include "daemon/snapshot/leased_blocks.h"

#include <algorithm>
#include <functional>
#include <tuple>
#include <unordered_map>
#include <utility>

namespace kvant::daemon {
namespace {

/// A block counts as used when what follows it was, so that parents stand before their children.
std::vector<Block*> LastUsedFirst(std::vector<Block*> blocks) {
  std::ranges::sort(blocks, std::ranges::greater{}, &Block::first_position);
  std::unordered_map<const Block*, std::uint64_t> used;
  for (const Block* block : blocks) {
    const std::uint64_t at = std::max(used[block], block->retention.last_use);
    used[block] = at;
    if (block->parent != nullptr) used[block->parent] = std::max(used[block->parent], at);
  }
  std::ranges::sort(blocks, [&](const Block* a, const Block* b) {
    return std::tuple(used.at(b), a->first_position) < std::tuple(used.at(a), b->first_position);
  });
  return blocks;
}

}  // namespace

Result<std::unique_ptr<LeasedBlocks>> LeasedBlocks::Of(std::shared_ptr<Store> store, const Sequence* sequence) {
  std::unique_ptr<LeasedBlocks> held(new LeasedBlocks(std::move(store)));
  std::vector<Block*> blocks;
  if (sequence == nullptr) {
    blocks = held->LeaseAll();
  } else {
    blocks.assign(sequence->blocks().begin(), sequence->blocks().end());
    if (!blocks.empty()) held->Lease(*blocks.back());
  }
  // After the leases: making room must not take these blocks.
  constexpr std::size_t kRecordBytes = sizeof(Entry) + sizeof(Block*);
  auto charge = held->store().TakeRecord(ChargeKind::kBlockRecord, blocks.size() * kRecordBytes, "the list of blocks to save");
  if (!charge) return charge.error();
  held->charge_ = std::move(*charge);
  held->List(blocks);
  return held;
}

std::unique_ptr<LeasedBlocks> LeasedBlocks::AtTheEnd(std::shared_ptr<Store> store) {
  std::unique_ptr<LeasedBlocks> held(new LeasedBlocks(std::move(store)));
  held->List(held->LeaseAll());
  return held;
}

std::vector<Block*> LeasedBlocks::LeaseAll() {
  std::vector<Block*> blocks = LastUsedFirst(store_->index().blocks());
  for (Block* block : blocks) {
    if (block->first_child == nullptr) Lease(*block);
  }
  return blocks;
}

/// Requires: parents before their children.
void LeasedBlocks::List(const std::vector<Block*>& blocks) {
  entries_.reserve(blocks.size());
  std::unordered_map<const Block*, std::uint64_t> numbers;
  for (Block* block : blocks) {
    const std::uint64_t parent = block->parent == nullptr ? kNoParent : numbers.at(block->parent);
    numbers.emplace(block, entries_.size());
    entries_.push_back({.block = block, .parent = parent, .state = block->state});
  }
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
