// What must hold after every step of a day.
#include <algorithm>
#include <cstring>

#include <gtest/gtest.h>

#include "tests/daemon/day_world.h"

namespace kvant::daemon {

DayWorld::Held DayWorld::Blocks() const {
  Held now;
  for (const Store* const store : life_->core.stores.stores()) {
    for (const Block* const block : store->index().blocks()) {
      now.emplace(BlockName{store->tenant()->name, store->identity(), block->chain}, block);
    }
  }
  return now;
}

void DayWorld::Check() {
  const Held now = Blocks();
  CheckBlocks(now);
  CheckSequences();
  CheckMemory();
  CheckPinsAndTimes(now);
  there_.clear();
  held_.clear();
  for (const auto& [name, block] : now) {
    there_.insert(name);
    if (block->leases != 0) held_.insert(name);
  }
}

/// Bytes stay as they were sealed, all of them or the first planes; nothing goes that is held, or without being counted.
void DayWorld::CheckBlocks(const Held& now) {
  for (const auto& [name, block] : now) {
    const BlockPart& codes = block->codes();
    Kept& kept = sealed_[name];
    if (kept.payload.empty()) {
      ASSERT_EQ(codes.payload_bytes, block->store->plan()->payload_bytes()) << "sealed as a whole";
      kept.payload.assign(codes.payload, codes.payload + codes.payload_bytes);
    }
    // A store that was opened anew, or restored after its newest blocks went, counts generations from where it stands.
    const bool same = there_.contains(name) && kept.generation == block->generation;
    ASSERT_LE(codes.payload_bytes, kept.payload.size());
    if (same) {
      ASSERT_LE(codes.payload_bytes, kept.bytes) << "what was given up does not come back";
    }
    if (same && block->leases != 0 && held_.contains(name)) {
      ASSERT_EQ(codes.payload_bytes, kept.bytes) << "a held block stays as it is";
    }
    ASSERT_EQ(std::memcmp(codes.payload, kept.payload.data(), codes.payload_bytes), 0)
        << "block at " << block->first_position << " of " << block->store->name();
    ASSERT_EQ(block->codes().sections, block->store->plan()->SectionsOf(codes.payload_bytes));
    if (block->parent != nullptr) {
      ASSERT_TRUE(now.contains({name.tenant, name.store, block->parent->chain})) << "no block without what it continues";
    }
    kept.bytes = codes.payload_bytes;
    kept.generation = block->generation;
  }
  if (!now.empty()) {
    const Block& any = *std::next(now.begin(), static_cast<std::ptrdiff_t>(Below(now.size())))->second;
    ASSERT_TRUE(any.store->Inspect(any).checksum_ok);
  }
  std::uint64_t missing = 0;
  for (const BlockName& name : there_) {
    if (now.contains(name)) continue;
    ++missing;
  }
  const Counters counters = life_->core.stores.Totals().counters;
  // More may have gone than are missing: blocks that came and went between two looks, or went and came.
  ASSERT_LE(missing, counters.evicted_blocks - gone_) << "blocks went and nobody counted them";
  ASSERT_EQ(counters.corrupt_parts, 0u);
  gone_ = counters.evicted_blocks;
  if (missing != 0) Note("evict for room or time");
  if (life_->core.core.eviction.coarse_blocks != 0) Note("coarse");
}

/// Every sequence reads what was written, and leases are those of sequences and pins.
void DayWorld::CheckSequences() {
  std::map<const Block*, std::uint32_t> leases;
  for (const Live& live : life_->live) {
    if (live.exact) {
      ASSERT_EQ(live.held.Fault(), "");
    }
    ASSERT_EQ(live.held.sequence->length(), live.held.tokens.size());
    ASSERT_EQ(std::vector<std::uint64_t>(live.held.sequence->marks().begin(), live.held.sequence->marks().end()), live.marks);
    for (const Block* block : live.held.sequence->blocks()) ++leases[block];
  }
  std::map<BlockName, std::uint32_t> pinned;
  for (const PinFigures& pin : life_->core.stores.pins().list()) {
    const auto model = pins_.find(pin.id);
    ASSERT_NE(model, pins_.end()) << "pin " << pin.id << " that nobody made";
    ASSERT_EQ(pin.blocks, model->second.blocks.size());
    for (const BlockName& name : model->second.blocks) ++pinned[name];
  }
  for (const Store* const store : life_->core.stores.stores()) {
    for (const Block* block : store->index().blocks()) {
      const auto pins = pinned.find({store->tenant()->name, store->identity(), block->chain});
      ASSERT_EQ(block->leases, leases[block] + (pins == pinned.end() ? 0 : pins->second));
    }
  }
}

/// Never a byte beyond the budget, or further beyond a quota that was set below what is held; figures add up, and the keeper
/// has what there is and nothing else.
void DayWorld::CheckMemory() {
  const Budget& budget = life_->core.budget;
  ASSERT_LE(budget.used(), budget.limit());
  std::size_t held = 0, segments = 0, coarse = 0;
  for (const Store* const store : life_->core.stores.stores()) {
    const StoreFigures figures = store->Figures();
    held += store->pool().held_bytes();
    segments += 1 + store->pool().slab_count();
    ASSERT_LE(store->pool().resident_bytes(), store->pool().held_bytes());
    ASSERT_EQ(figures.used_bytes, figures.compressed_bytes + figures.state_bytes + figures.slot_overhead_bytes +
                                      figures.store_record_bytes + figures.block_record_bytes + figures.sequence_record_bytes +
                                      figures.slab_record_bytes);
    for (const Block* block : store->index().blocks()) {
      coarse += block->codes().payload_bytes < store->plan()->payload_bytes() ? 1 : 0;
    }
  }
  ASSERT_EQ(held, budget.slab_bytes());
  ASSERT_EQ(coarse, life_->core.core.eviction.coarse_blocks);
  for (const auto& store : life_->stores) segments += store->dropped() ? 1 : 0;  // its manifest goes with the last reference
  for (const Store* const store : life_->core.stores.stores()) {
    ASSERT_TRUE(store->pool().used_slots() + store->pool().warm_slots() != 0 || store->pool().slab_count() == 0)
        << "a slab that nobody would give back";
  }
  ASSERT_LE(shelf_.size(), segments + 1);
  ASSERT_GE(shelf_.size(), segments - life_->stores.size());
  for (const auto& [name, tenant] : life_->core.stores.tenants()) {
    const auto limit = tenant_limits_.find(name);
    const std::size_t used = tenant->budget->used();
    if (limit != tenant_limits_.end()) {
      ASSERT_EQ(tenant->budget->own_limit(), limit->second) << "quota of " << name;
      ASSERT_LE(used, std::max<std::size_t>(limit->second, used_[name])) << name;
    }
    used_[name] = used;
  }
}

void DayWorld::CheckPinsAndTimes(const Held& now) {
  std::set<std::uint64_t> listed;
  for (const PinFigures& pin : life_->core.stores.pins().list()) listed.insert(pin.id);
  for (auto pin = pins_.begin(); pin != pins_.end();) {
    if (pin->second.end_ms <= now_ms_ && !listed.contains(pin->first)) {
      pin = pins_.erase(pin);
      Note("pin over");
      continue;
    }
    if (pin->second.end_ms > now_ms_) {
      ASSERT_TRUE(listed.contains(pin->first)) << "pin " << pin->first;
      for (const BlockName& name : pin->second.blocks) ASSERT_TRUE(now.contains(name)) << "a pinned block went";
    }
    ++pin;
  }
  for (const Store* const store : life_->core.stores.stores()) {
    const auto ttl = ttls_.find({store->tenant()->name, store->identity()});
    ASSERT_EQ(store->ttl_ms(), ttl == ttls_.end() ? kTtlMs : ttl->second);
  }
}

}  // namespace kvant::daemon
