// Blocks of a restored store are checked when they are first asked for.
#include <algorithm>
#include <utility>

#include "daemon/store/store.h"
#include "protocol/block_format.h"

namespace kvant::daemon {

bool Store::Whole(Block& block) {
  if (!block.unchecked) return true;
  const auto whole = [this](SlotRef slot) {
    return protocol::VerifySlot(pool_.slab(slot.slab)->slot_bytes(slot.slot), spec().block_tokens).has_value();
  };
  if (std::ranges::all_of(block.parts, whole, &BlockPart::slot)) {
    if (block.state != nullptr && !whole(block.state->slot())) {
      block.state = nullptr;
      ++counters_.corrupt_parts;
    }
    NoteWhole(block);
    return true;
  }
  if (core_.notify) {
    core_.notify("store " + name() + ": the block at position " + std::to_string(block.first_position) +
                 " fails its checksum after a restart; it and what follows it is dropped");
  }
  const std::vector<Block*> gone = PrefixIndex::WithContinuations(block);
  for (auto it = gone.rbegin(); it != gone.rend(); ++it) {
    Block& each = **it;
    counters_.corrupt_parts += each.parts.size();
    if (each.leases == 0 && each.first_child == nullptr) {
      TakeOut(each);
      continue;
    }
    // No sequence holds it, for it would have been checked; a pin or a snapshot may. It goes when they let go.
    each.damaged = true;
    each.retention.doomed = true;
  }
  return false;
}

void Store::NoteWhole(Block& block) noexcept {
  if (!std::exchange(block.unchecked, false)) return;
  --unchecked_;
}

Block* Store::FindWhole(const Block* parent, const protocol::Digest& chain, std::span<const std::uint32_t> tokens) {
  Block* const block = index_.Find(parent, chain, tokens);
  return block != nullptr && Whole(*block) ? block : nullptr;
}

}  // namespace kvant::daemon
