// Room in a store: what it takes, and what it gives back or evicts for it.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "daemon/store/slot_sizes.h"
#include "daemon/store/store.h"

namespace kvant::daemon {

bool Store::MakeOwnRoom(std::size_t bytes) {
  return GiveBack(bytes) || MakeWay(core_.eviction, index_.evictable(), index_.fine());
}

bool Store::MakeRoom(std::size_t bytes) {
  // What a quota lacks, its owner gives and nobody else: others give only where the daemon's own budget lacks it.
  if (budget_->own_available() < bytes) return MakeOwnRoom(bytes);
  if (tenant_ && tenant_->budget->own_available() < bytes) return core_.make_room_in(tenant_->scope, bytes);
  return core_.make_room(bytes);
}

void Store::Limit(std::size_t bytes) {
  budget_->set_own_limit(bytes);
  while (budget_->used() > bytes && MakeOwnRoom(budget_->used() - bytes)) {
  }
}

std::uint64_t Store::SinkBytes(ElementType type) const noexcept { return SinkBytesFor(spec(), type); }

std::uint64_t Store::SlotBytes(std::uint64_t payload_bytes) const noexcept {
  return SlotBytesFor(spec().block_tokens, payload_bytes);
}

std::uint64_t Store::SlotBytesOf(const Block& block) const noexcept {
  std::uint64_t bytes = 0;
  for (const BlockPart& part : block.parts) bytes += SlotBytes(part.payload_bytes);
  if (block.state != nullptr) bytes += StateSlotBytes(spec().block_tokens, block.state->bytes());
  return bytes;
}

Result<Charge> Store::TakeRecord(ChargeKind kind, std::size_t bytes, std::string_view what) {
  for (;;) {
    Result<Charge> charge = budget_->Take(kind, bytes, what);
    if (charge) return charge;
    if (MakeRoom(bytes)) continue;
    NoteNoRoom(bytes);
    return charge;
  }
}

Result<SlotRef> Store::AllocateSlot(std::uint64_t slot_bytes) {
  for (;;) {
    Result<SlotRef> slot = pool_.Allocate(slot_bytes);
    UpdateOrder();
    if (slot || slot.error().code != ErrorCode::kStoreFull) return slot;
    const std::size_t bytes = BlockPool::LeastBytes(slot_bytes);
    if (MakeRoom(bytes)) continue;
    NoteNoRoom(bytes);
    return slot;
  }
}

bool Store::GiveBack(std::size_t bytes) {
  const bool gave = pool_.GiveBack(bytes);
  UpdateOrder();
  return gave;
}

std::uint64_t Store::Expire(std::uint64_t most) {
  std::uint64_t expired = 0;
  const std::uint64_t ttl = ttl_ms();
  while (ttl != 0 && expired < most) {
    Block* const block = index_.oldest();
    if (block == nullptr || core_.eviction.now_ms - block->retention.last_use_ms < ttl) break;
    Evict(*block);
    ++counters_.expired_blocks;
    ++expired;
  }
  return expired;
}

EvictFigures Store::EvictAll() {
  EvictFigures figures;
  while (Block* const block = index_.oldest()) {
    ++figures.blocks;
    figures.bytes += SlotBytesOf(*block);
    Evict(*block);
  }
  GiveBack(~std::size_t{0});
  return figures;
}

}  // namespace kvant::daemon
