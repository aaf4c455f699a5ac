#include "daemon/store/store.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "protocol/block_format.h"
#include "protocol/digest.h"

namespace kvant::daemon {
namespace {

std::uint64_t SlotBytes(const quantizers::Plan& plan) {
  return (protocol::PayloadOffset(plan.spec().block_tokens) + plan.payload_bytes() + 63) / 64 * 64;
}

/// The least a store of this plan takes beside its own record: one block, its sinks, and a sequence to make it.
std::size_t LeastBytes(const quantizers::Plan& plan) {
  const std::uint64_t slots = plan.spec().sink_tokens == 0 ? 1 : 2;
  return slots * Slab::SegmentBytes(SlotBytes(plan), 1) + kBlockRecordBytes + kTableEntryBytes + kSequenceRecordBytes;
}

}  // namespace

Result<std::shared_ptr<Store>> Store::Create(Core& core, std::shared_ptr<const quantizers::Plan> plan, Charge charge) {
  const StoreSpec& spec = plan->spec();
  const std::string what = "create store " + spec.name;
  const std::size_t least = charge.bytes() + LeastBytes(*plan);
  if (least > core.budget.limit()) {
    return Error{ErrorCode::kStoreFull, what + ": one block needs " + std::to_string(least) +
                                            " bytes with its records, the whole budget is " +
                                            std::to_string(core.budget.limit())};
  }
  // Private constructor: make_shared cannot reach it.
  std::shared_ptr<Store> store(new Store(core, std::move(plan), std::move(charge)));
  if (const std::uint64_t bytes = store->SinkBytes(ElementType::kF16); bytes > store->plan()->payload_bytes()) {
    return Error{ErrorCode::kUnsupported, what + ": the raw rows of sink_tokens " + std::to_string(spec.sink_tokens) +
                                              " take " + std::to_string(bytes) + " bytes as f16, a block's codes " +
                                              std::to_string(store->plan()->payload_bytes()) +
                                              "; choose fewer sink_tokens, more block_tokens or codecs with more bits"};
  }
  return store;
}

Store::Store(Core& core, std::shared_ptr<const quantizers::Plan> plan, Charge charge)
    : core_(core),
      plan_(std::move(plan)),
      fields_(IdentityFields(*plan_)),
      identity_(IdentityDigest(fields_)),
      slot_bytes_(SlotBytes(*plan_)),
      charge_(std::move(charge)),
      pool_({.slot_bytes = slot_bytes_,
             .block_tokens = plan_->spec().block_tokens,
             .identity = identity_,
             .boot_token = core.boot_token},
            core.budget, core.populate),
      key_means_(plan_) {}

Store::~Store() = default;

std::uint64_t Store::SinkBytes(ElementType type) const noexcept {
  const StoreSpec& s = spec();
  return std::uint64_t{s.sink_tokens} * s.layers * 2 * s.kv_heads * s.head_dim * ElementBytes(type);
}

bool Store::EvictOne() {
  std::unique_ptr<Block> block = index_.EvictOne();
  if (block == nullptr) return false;
  Discard(std::move(block));
  return true;
}

void Store::Discard(std::unique_ptr<Block> block) {
  pool_.Free(block->slot);
  if (block->sinks) pool_.Free(*block->sinks);
  ++counters_.evicted_blocks;
}

Result<Charge> Store::TakeMetadata(std::size_t bytes, std::string_view what) {
  for (;;) {
    Result<Charge> charge = core_.budget.Take(ChargeKind::kMetadata, bytes, what);
    if (charge) return charge;
    if (EvictOne()) {  // frees the block's record, and its slab if that was the last one in it
      pool_.DropEmptySlabs();
      continue;
    }
    if (!core_.reclaim || !core_.reclaim(bytes, this)) return charge;
  }
}

Result<SlotRef> Store::AllocateSlot() {
  for (;;) {
    Result<SlotRef> slot = pool_.Allocate();
    if (slot || slot.error().code != ErrorCode::kStoreFull) return slot;
    if (EvictOne()) continue;
    if (!core_.reclaim || !core_.reclaim(pool_.smallest_slab_bytes(), this)) return slot;
  }
}

Result<PendingBlock> Store::Reserve(bool with_sinks) {
  Result<Charge> charge = TakeMetadata(kBlockRecordBytes, "the record of a block");
  if (!charge) return charge.error();
  PendingBlock pending(shared_from_this(), std::move(*charge));
  Result<SlotRef> slot = AllocateSlot();
  if (!slot) return slot.error();
  pending.slot_ = *slot;
  pending.has_slot_ = true;
  if (with_sinks) {
    Result<SlotRef> sinks = AllocateSlot();
    if (!sinks) return sinks.error();
    pending.sinks_ = *sinks;
  }
  pending.generation_ = core_.next_generation++;
  return pending;
}

EvictFigures Store::Evict(std::uint64_t max_blocks, bool dry_run) {
  EvictFigures figures;
  if (dry_run) {
    // Without leases on a block there are none behind it, so every unleased block can go, leaves first.
    for (const Block* block : index_.blocks()) {
      if (block->leases != 0 || (max_blocks != 0 && figures.blocks == max_blocks)) continue;
      ++figures.blocks;
      figures.bytes += slot_bytes_ * (block->sinks ? 2 : 1);
    }
    return figures;
  }
  while (max_blocks == 0 || figures.blocks < max_blocks) {
    std::unique_ptr<Block> block = index_.EvictOne();
    if (block == nullptr) break;
    ++figures.blocks;
    figures.bytes += slot_bytes_ * (block->sinks ? 2 : 1);
    Discard(std::move(block));
  }
  pool_.DropEmptySlabs();
  return figures;
}

bool Store::GiveBack(std::size_t bytes) {
  pool_.DropEmptySlabs();
  while (core_.budget.available() < bytes) {
    // The slab whose blocks were all used longest ago, among those whose every used slot holds an unleased block.
    struct Use {
      std::uint32_t slots = 0;
      bool leased = false;
      std::uint64_t last_use = 0;
      std::vector<Block*> blocks;
    };
    std::map<std::uint32_t, Use> uses;
    for (Block* block : index_.blocks()) {
      const auto note = [&](SlotRef slot) {
        Use& use = uses[slot.slab];
        ++use.slots;
        use.leased = use.leased || block->leases != 0;
        use.last_use = std::max(use.last_use, block->last_use);
        use.blocks.push_back(block);
      };
      note(block->slot);
      if (block->sinks) note(*block->sinks);
    }
    const Use* best = nullptr;
    for (const auto& [index, use] : uses) {
      if (use.leased || use.slots != pool_.used_slots(index)) continue;  // the rest is being written
      if (best == nullptr || use.last_use < best->last_use) best = &use;
    }
    if (best == nullptr) return false;
    std::vector<Block*> doomed = best->blocks;
    while (!doomed.empty()) {
      std::vector<std::unique_ptr<Block>> taken = index_.TakeOut(*doomed.back());
      for (std::unique_ptr<Block>& block : taken) {
        std::erase(doomed, block.get());
        Discard(std::move(block));
      }
    }
    pool_.DropEmptySlabs();
  }
  return true;
}

void Store::NoteKeys(std::span<const KeyMean> block) {
  key_means_.Add(block);
  if (warned_ || key_means_.unfit_heads() == 0) return;
  warned_ = true;
  if (core_.warn) core_.warn("store " + name() + ": " + key_means_.Warning());
}

StoreFigures Store::Figures() const {
  StoreFigures figures;
  figures.blocks = index_.size();
  figures.leased_blocks = index_.leased_blocks();
  figures.leases = index_.leases();
  figures.sequences = sequences_;
  figures.slabs = pool_.slab_count();
  figures.slab_bytes = pool_.slab_bytes();
  figures.logical_f16_bytes = index_.size() * plan_->logical_bytes();
  figures.compressed_bytes = index_.size() * plan_->payload_bytes();
  figures.resident_bytes = pool_.resident_bytes();
  figures.unfit_key_heads = key_means_.unfit_heads();
  figures.counters = counters_;
  return figures;
}

BlockFigures Store::Inspect(const Block& block) const {
  const auto verified = [this](SlotRef slot) {
    return protocol::VerifySlot(pool_.slab(slot.slab)->slot_bytes(slot.slot), spec().block_tokens).has_value();
  };
  return {.first_position = block.first_position,
          .chain = protocol::DigestHex(block.chain),
          .slab = block.slot.slab,
          .slot = block.slot.slot,
          .generation = block.generation,
          .leases = block.leases,
          .checksum_ok = verified(block.slot) && (!block.sinks || verified(*block.sinks))};
}

PendingBlock::PendingBlock(std::shared_ptr<Store> store, Charge charge) noexcept
    : store_(std::move(store)), charge_(std::move(charge)) {}

PendingBlock::~PendingBlock() {
  if (store_ == nullptr) return;  // moved from
  if (has_slot_) store_->pool_.Free(slot_);
  if (sinks_) store_->pool_.Free(*sinks_);
}

Block* PendingBlock::Link(const protocol::Digest& chain, Block* parent, std::uint64_t first_position,
                          ElementType sink_type) && {
  const std::byte* slot = store_->pool_.Address(slot_);
  const std::uint32_t block_tokens = store_->spec().block_tokens;
  auto block = std::make_unique<Block>();
  block->chain = chain;
  block->parent = parent;
  block->first_position = first_position;
  block->generation = generation_;
  block->slot = slot_;
  block->sinks = sinks_;
  if (sinks_) block->sink_rows = store_->pool_.Address(*sinks_) + protocol::PayloadOffset(block_tokens);
  block->sink_type = sink_type;
  block->tokens = protocol::SlotTokens(slot, block_tokens);
  block->payload = slot + protocol::PayloadOffset(block_tokens);
  block->charge = std::move(charge_);
  Block* linked = store_->index_.Insert(std::move(block));
  ++store_->counters_.sealed_blocks;
  store_ = nullptr;
  return linked;
}

}  // namespace kvant::daemon
