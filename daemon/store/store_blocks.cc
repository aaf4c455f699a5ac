// Blocks and states of a store: reserved, linked, adopted from memory that outlived a daemon, taken out.
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "daemon/store/slot_sizes.h"
#include "daemon/store/store.h"
#include "protocol/block_format.h"

namespace kvant::daemon {

Result<Block*> Store::Adopt(Block block) {
  Result<Charge> charge = budget_->Take(ChargeKind::kBlockRecord, BlockRecordBytes(spec()), "the record of a block");
  if (!charge) return charge.error();
  for (std::size_t i = 0; i < block.parts.size(); ++i) {
    if (Result<void> used = pool_.AdoptSlot(block.parts[i].slot, SlotBytes(block.parts[i].payload_bytes)); !used) {
      block.parts.resize(i);
      FreeSlots(block.parts);
      return used.error();
    }
  }
  block.charge = std::move(*charge);
  block.store = this;
  CountLost(block, true);
  unchecked_ += block.unchecked ? 1 : 0;
  UpdateOrder();
  return index_.Insert(std::make_unique<Block>(std::move(block)));
}

Result<std::shared_ptr<StateSlot>> Store::ReserveState(std::uint64_t bytes) {
  Result<Charge> charge = TakeRecord(ChargeKind::kBlockRecord, kStateRecordBytes, "the record of a state");
  if (!charge) return charge.error();
  Result<SlotRef> slot = AllocateSlot(StateSlotBytes(spec().block_tokens, bytes));
  if (!slot) return slot.error();
  return std::make_shared<StateSlot>(*this, *slot, bytes, NextGeneration(), std::move(*charge));
}

Result<std::shared_ptr<StateSlot>> Store::AdoptState(SlotRef slot, std::uint64_t bytes, std::uint64_t generation) {
  Result<Charge> charge = budget_->Take(ChargeKind::kBlockRecord, kStateRecordBytes, "the record of a state");
  if (!charge) return charge.error();
  if (Result<void> used = pool_.AdoptSlot(slot, StateSlotBytes(spec().block_tokens, bytes)); !used) return used.error();
  return std::make_shared<StateSlot>(*this, slot, bytes, generation, std::move(*charge));
}

void Store::StateHeld(std::uint64_t bytes) noexcept {
  ++states_;
  state_bytes_ += bytes;
}

void Store::StateFreed(std::uint64_t bytes) noexcept {
  --states_;
  state_bytes_ -= bytes;
}

Result<PendingBlock> Store::Reserve(std::optional<ElementType> sink_type) { return Reserve(sink_type, plan_->sections()); }

Result<PendingBlock> Store::Reserve(std::optional<ElementType> sink_type, std::size_t sections) {
  Result<Charge> charge = TakeRecord(ChargeKind::kBlockRecord, BlockRecordBytes(spec()), "the record of a block");
  if (!charge) return charge.error();
  PendingBlock pending(shared_from_this(), std::move(*charge));
  const auto add = [&](BlockPart part) -> Result<void> {
    Result<SlotRef> slot = AllocateSlot(SlotBytes(part.payload_bytes));
    if (!slot) return slot.error();
    part.slot = *slot;
    part.payload = pool_.Address(*slot) + protocol::PayloadOffset(spec().block_tokens);
    pending.parts_.push_back(part);
    return {};
  };
  Result<void> added = add({.kind = protocol::BlockKind::kCodes,
                            .payload_bytes = plan_->payload_bytes(),
                            .sections = static_cast<std::uint8_t>(plan_->sections())});
  if (added && sink_type) {
    added = add({.kind = protocol::BlockKind::kSinks, .payload_bytes = SinkBytes(*sink_type), .element_type = *sink_type});
  }
  if (!added) return added.error();
  if (BlockPart& codes = pending.parts_.front(); sections < codes.sections) {
    codes.payload_bytes = plan_->section_end(sections - 1);
    codes.sections = static_cast<std::uint8_t>(sections);
    pool_.Trim(codes.slot, SlotBytes(codes.payload_bytes));
  }
  pending.generation_ = NextGeneration();
  return pending;
}

void Store::Evict(Block& block) {
  NoteEviction(block);
  TakeOut(block);
}

void Store::TakeOut(Block& block) {
  CountLost(block, false);
  unchecked_ -= block.unchecked ? 1 : 0;
  FreeSlots(index_.TakeOut(block)->parts);
}

/// A block comes or goes: what its codes have lost of a whole block's.
void Store::CountLost(const Block& block, bool comes) noexcept {
  const std::uint64_t bytes = plan_->payload_bytes() - block.codes().payload_bytes;
  if (bytes == 0) return;
  const std::uint64_t sign = comes ? 1 : ~std::uint64_t{0};
  demoted_bytes_ += sign * bytes;
  coarse_ += sign;
  core_.eviction.coarse_blocks += sign;
}

void Store::FreeSlots(const std::vector<BlockPart>& parts) {
  for (const BlockPart& part : parts) pool_.Free(part.slot);
  UpdateOrder();
}

PendingBlock::PendingBlock(std::shared_ptr<Store> store, Charge charge) noexcept
    : store_(std::move(store)), charge_(std::move(charge)) {}

PendingBlock::~PendingBlock() {
  if (store_ != nullptr) store_->FreeSlots(parts_);  // null: moved from
}

Block* PendingBlock::Link(const protocol::Digest& chain, Block* parent, std::uint64_t first_position,
                          std::vector<std::uint32_t> tokens, std::uint32_t priority) && {
  auto block = std::make_unique<Block>();
  block->chain = chain;
  block->parent = parent;
  block->first_position = first_position;
  block->generation = generation_;
  block->tokens = std::move(tokens);
  block->parts = std::move(parts_);
  block->charge = std::move(charge_);
  block->store = store_.get();
  store_->CountLost(*block, true);
  block->retention.priority = static_cast<std::uint8_t>(priority);
  Block* linked = store_->index_.Insert(std::move(block));
  ++store_->counters_.sealed_blocks;
  store_->TellOfBlock("block_sealed", *linked);
  store_ = nullptr;
  return linked;
}

}  // namespace kvant::daemon
