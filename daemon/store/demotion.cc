// Demotion in place: blocks that nobody holds lose the last parts of their codes.
#include <algorithm>
#include <string>
#include <unordered_set>
#include <vector>

#include "daemon/store/store.h"
#include "protocol/block_format.h"

namespace kvant::daemon {
namespace {

/// Blocks that are leased or have a leased block behind them: whoever leases one reads all before it.
std::unordered_set<const Block*> HeldBlocks(const std::vector<Block*>& blocks) {
  std::unordered_set<const Block*> held;
  for (const Block* block : blocks) {
    if (block->leases == 0) continue;
    for (; block != nullptr && held.insert(block).second; block = block->parent) {
    }
  }
  return held;
}

/// The same for one block: walks what follows it, without recursion.
bool Held(const Block& first) {
  const Block* block = &first;
  for (;;) {
    if (block->leases != 0) return true;
    if (block->first_child != nullptr) {
      block = block->first_child;
      continue;
    }
    while (block != &first && block->next_sibling == nullptr) block = block->parent;
    if (block == &first) return false;
    block = block->next_sibling;
  }
}

Error NoSections(const std::string& store) {
  return {ErrorCode::kInvalidArgument, "demote blocks of store " + store + " to 0 planes: at least one must be left"};
}

}  // namespace

Result<std::uint64_t> Store::Demote(Block& block, std::size_t sections) {
  if (sections == 0) return NoSections(name());
  const std::string what = "demote the block at position " + std::to_string(block.first_position) + " of store " + name();
  BlockPart& codes = block.parts.front();
  if (sections >= codes.sections) return std::uint64_t{0};
  if (Held(block)) return Error{ErrorCode::kUnavailable, what + ": a sequence holds it"};
  const std::uint64_t payload_bytes = plan_->section_end(sections - 1);
  Slab& slab = *pool_.slab(codes.slot.slab);
  if (slab.populating(codes.slot.slot)) return Error{ErrorCode::kUnavailable, what + ": its pages are being made"};
  Result<void> shortened =
      protocol::ShortenSlot({slab.slot(codes.slot.slot), slab.header().slot_bytes}, spec().block_tokens, payload_bytes);
  if (!shortened) return Error{shortened.error().code, what + ": " + shortened.error().message};
  // Written before pages go: who finds the slot after a crash finds the block that is left, or a header whose checksum differs.
  ++counters_.demoted_blocks;
  CountLost(block, false);
  codes.payload_bytes = payload_bytes;
  codes.sections = static_cast<std::uint8_t>(sections);
  CountLost(block, true);
  TellOfBlock("block_demoted", block);
  return std::uint64_t{pool_.Trim(codes.slot, SlotBytes(payload_bytes))};
}

bool Store::MakeWay(EvictionOrder& order, const Ranking& blocks, const Ranking& fine) {
  while (true) {
    const EvictionOrder::Demotion next = order.NextDemotion(fine);
    if (next.block == nullptr) break;
    if (next.block->store->Demote(*next.block, order.demote_to)) return true;
    next.leaf->index->NoteCoarse(*next.leaf);  // its bytes are damaged, or its pages are just being made: it can only go
  }
  Block* const block = order.Victim(blocks);
  if (block == nullptr) return false;
  block->store->Evict(*block);
  return true;
}

Result<DemoteFigures> Store::Demote(const DemoteRequest& request) {
  if (request.sections == 0) return NoSections(name());
  std::vector<Block*> blocks = index_.blocks();
  const std::unordered_set<const Block*> held = HeldBlocks(blocks);
  std::erase_if(blocks,
                [&](const Block* block) { return held.contains(block) || block->codes().sections <= request.sections; });
  std::ranges::sort(blocks, {}, [](const Block* block) { return block->retention.last_use; });
  DemoteFigures figures;
  for (Block* block : blocks) {
    if (request.max_blocks != 0 && figures.blocks == request.max_blocks) break;
    if (request.dry_run) {
      figures.bytes += block->codes().payload_bytes - plan_->section_end(request.sections - 1);
      ++figures.blocks;
      continue;
    }
    const Result<std::uint64_t> given = Demote(*block, request.sections);
    if (!given) {
      figures.corrupt += given.error().code == ErrorCode::kCorrupt ? 1 : 0;
      continue;
    }
    figures.bytes += *given;
    ++figures.blocks;
  }
  return figures;
}

}  // namespace kvant::daemon
