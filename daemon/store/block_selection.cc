#include "daemon/store/block_selection.h"

#include <algorithm>
#include <queue>
#include <unordered_map>
#include <utility>

#include "daemon/store/sequence.h"
#include "daemon/store/store_table.h"
#include "protocol/digest.h"

namespace kvant::daemon {
namespace {

Result<std::vector<Store*>> StoresOf(StoreTable& stores, const BlockSelection& selection) {
  if (!selection.tenant.empty() && !stores.tenants().contains(selection.tenant)) {
    return Error{ErrorCode::kNotFound, "no tenant has the name '" + selection.tenant + "'"};
  }
  if (!selection.store.empty()) {
    Result<Store*> store = stores.Find(selection.store, selection.tenant);
    if (!store) return store.error();
    return std::vector<Store*>{*store};
  }
  std::vector<Store*> list = stores.stores();
  if (!selection.tenant.empty()) {
    std::erase_if(list, [&](const Store* store) { return store->tenant()->name != selection.tenant; });
  }
  return list;
}

/// The block that the selection names; null if it names none.
Result<Block*> NamedBlock(const Store& store, const BlockSelection& selection) {
  if (!selection.tokens.empty()) {
    const std::uint32_t block_tokens = store.spec().block_tokens;
    const auto prefix = store.index().LongestPrefix(store.identity(), selection.tokens, block_tokens);
    if (prefix.empty() || prefix.size() != selection.tokens.size() / block_tokens) {
      return Error{ErrorCode::kNotFound, "store " + store.name() + " holds " + std::to_string(prefix.size()) + " of the " +
                                             std::to_string(selection.tokens.size() / block_tokens) +
                                             " whole blocks of that prefix"};
    }
    return prefix.back();
  }
  if (!selection.chain.empty()) {
    for (Block* const block : store.index().blocks()) {
      if (protocol::DigestHex(block->chain) == selection.chain) return block;
    }
    return Error{ErrorCode::kNotFound, "store " + store.name() + " has no block of chain '" + selection.chain + "'"};
  }
  return nullptr;
}

}  // namespace

Result<std::vector<Block*>> MatchBlocks(StoreTable& stores, const BlockSelection& selection) {
  if (selection.sequence) {
    Result<Sequence*> sequence = stores.core().sequences.Find(*selection.sequence);
    if (!sequence) return sequence.error();
    return std::vector<Block*>{(*sequence)->blocks().begin(), (*sequence)->blocks().end()};
  }
  Result<std::vector<Store*>> of = StoresOf(stores, selection);
  if (!of) return of.error();
  if ((!selection.tokens.empty() || !selection.chain.empty()) && selection.store.empty()) {
    return Error{ErrorCode::kInvalidArgument, "a chain or prefix is one of a store: name the store, too"};
  }
  std::vector<Block*> matched;
  for (Store* const store : *of) {
    Result<Block*> root = NamedBlock(*store, selection);
    if (!root) return root.error();
    const std::vector<Block*> blocks = *root != nullptr ? PrefixIndex::WithContinuations(**root) : store->index().blocks();
    const std::uint64_t now = store->core().eviction.now_ms;
    for (Block* const block : blocks) {
      if (now - block->retention.last_use_ms >= selection.idle_ms) matched.push_back(block);
    }
  }
  return matched;
}

Result<SelectedBlocks> SelectBlocks(StoreTable& stores, const BlockSelection& selection) {
  Result<std::vector<Block*>> matched = MatchBlocks(stores, selection);
  if (!matched) return matched.error();
  // Children that still stand in the way of each block, as if those that are chosen had gone already.
  std::unordered_map<const Block*, std::size_t> children;
  for (Block* const block : *matched) {
    std::size_t& count = children[block];
    for (const Block* child = block->first_child; child != nullptr; child = child->next_sibling) ++count;
  }
  const auto later = [](Block* a, Block* b) { return std::pair(a->retention.rank, a) > std::pair(b->retention.rank, b); };
  std::priority_queue<Block*, std::vector<Block*>, decltype(later)> ready(later);
  const auto consider = [&](Block* block) {
    if (children.at(block) != 0 || block->leases != 0) return;
    if (block->first_child != nullptr)
      block->retention.rank = block->store->core().eviction.policy().RankOf(*block);  // it has none yet
    ready.push(block);
  };
  for (Block* const block : *matched) consider(block);
  SelectedBlocks chosen;
  while (!ready.empty()) {
    if (selection.max_blocks != 0 && chosen.figures.blocks == selection.max_blocks) break;
    if (selection.max_bytes != 0 && chosen.figures.bytes >= selection.max_bytes) break;
    Block* const block = ready.top();
    ready.pop();
    chosen.order.push_back(block);
    ++chosen.figures.blocks;
    chosen.figures.bytes += block->store->SlotBytesOf(*block);
    const auto parent = children.find(block->parent);
    if (parent == children.end()) continue;
    --parent->second;
    consider(block->parent);
  }
  for (const Block* const block : *matched) chosen.figures.held += block->leases != 0 ? 1 : 0;
  return chosen;
}

}  // namespace kvant::daemon
