#include "daemon/snapshot/restoration.h"

#include <algorithm>
#include <string>
#include <utility>

#include "daemon/memory/check.h"
#include "daemon/store/state_slot.h"
#include "protocol/digest.h"

namespace kvant::daemon {
namespace {

Error Invalid(std::uint64_t number, const std::string& why) {
  return {ErrorCode::kInvalidArgument, "restore block " + std::to_string(number) + ": " + why};
}

}  // namespace

Result<void> SlotToFill::Finish() const {
  std::byte* const begin = slab->slot(slot);
  protocol::FinishSlot(begin, block_tokens, info, tokens, bytes);
  if (reinterpret_cast<const protocol::BlockHeader*>(begin)->payload_checksum == checksum) return {};
  protocol::ClearSlot(begin);
  return Error{ErrorCode::kCorrupt, "restore block " + protocol::DigestHex(info.chain) + " at position " +
                                        std::to_string(info.first_position) + ": its bytes do not match their checksum"};
}

Restoration::~Restoration() {
  for (Entry& entry : entries_) {
    if (entry.step == Step::kPresent) entry.store->index().DropLease(*entry.block);
  }
}

std::uint64_t Restoration::BytesOf(const Store& store, const Offered& block) const {
  std::uint64_t bytes = store.slot_bytes() + kBlockRecordBytes + block.tokens.size_bytes();
  if (block.sink_type) bytes += store.SlotBytes(store.SinkBytes(*block.sink_type));
  // A slot of a state is larger by an eighth at most.
  if (block.state_bytes != 0) bytes += store.SlotBytes(block.state_bytes + block.state_bytes / 8) + kStateRecordBytes;
  return bytes;
}

Result<bool> Restoration::Offer(const std::shared_ptr<Store>& store, const Offered& block) {
  const std::uint64_t number = offers_;
  const StoreSpec& spec = store->spec();
  if (closed_) return Invalid(number, "offered after room was reserved");
  if (block.tokens.size() != spec.block_tokens) {
    return Invalid(number, std::to_string(block.tokens.size()) + " tokens, blocks of store " + store->name() + " have " +
                               std::to_string(spec.block_tokens));
  }
  const bool first = block.parent == kNoParent;
  if (!first && block.parent >= number) return Invalid(number, "it follows block " + std::to_string(block.parent));
  if (block.sink_type.has_value() != (first && spec.sink_tokens != 0)) {
    return Invalid(number, block.sink_type ? "sinks where there are none" : "it lacks its sinks");
  }
  if (block.state_bytes > kMaxStateBytes) {
    return Invalid(number,
                   "a state of " + std::to_string(block.state_bytes) + " bytes, at most " + std::to_string(kMaxStateBytes));
  }
  Entry entry{.store = store,
              .parent = block.parent,
              .chain = {},
              .before = store->identity(),
              .position = 0,
              .tokens = {},
              .sink_type = block.sink_type,
              .state_bytes = block.state_bytes,
              .step = Step::kWanted,
              .block = nullptr,
              .pending = std::nullopt,
              .state = nullptr};
  Block* parent = nullptr;
  const bool known = first || block.parent < entries_.size();
  if (!first && known) {
    const Entry& before = entries_[block.parent];
    if (before.store != store) return Invalid(number, "it follows a block of another store");
    entry.before = before.chain;
    entry.position = before.position + spec.block_tokens;
    parent = before.block;
  }
  entry.chain = protocol::ChainDigest(entry.before, block.tokens);
  Block* const present = known && (first || parent != nullptr) ? store->FindWhole(parent, entry.chain, block.tokens) : nullptr;

  ++offers_;
  const std::uint64_t bytes = BytesOf(*store, block);
  if (present == nullptr) {
    ++wanted_;
    needed_bytes_ += bytes;
    ++sizes_[{store.get(), store->slot_bytes()}];
  }
  if (!overflowed_) {
    const std::size_t record = sizeof(Entry) + block.tokens.size_bytes();
    auto charge = core_.budget.Take(ChargeKind::kMetadata, record, "the record of a block to restore");
    if (charge) {
      records_.Merge(std::move(*charge));
    } else {
      overflowed_ = true;
    }
  }
  if (overflowed_) return true;  // counted only
  entry.tokens.assign(block.tokens.begin(), block.tokens.end());
  if (present != nullptr) {
    entry.step = Step::kPresent;
    entry.block = present;
    store->index().AddLease(*present);
  }
  entries_.push_back(std::move(entry));
  return present == nullptr;
}

Error Restoration::NoRoom() const {
  const std::uint64_t free = core_.budget.available() + records_.bytes();
  const std::uint64_t needed = needed_bytes_ + records_.bytes();
  const std::uint64_t missing = needed > free ? needed - free : 0;
  return {ErrorCode::kStoreFull, "restore " + std::to_string(wanted_) + " blocks: they need " + std::to_string(needed) +
                                     " bytes, " + std::to_string(free) + " of the budget of " +
                                     std::to_string(core_.budget.limit()) + " are free: " + std::to_string(missing) +
                                     " bytes are missing; evict blocks or raise the budget"};
}

Result<void> Restoration::Reserve() {
  if (std::exchange(closed_, true)) return Invalid(offers_, "room was reserved already");
  // What slabs take beside slots: a page and a record each, and pages that slots begin and end in.
  std::uint64_t slack = needed_bytes_ / 128;
  for (const auto& [store, blocks] : sizes_) slack += 2 * BlockPool::LeastBytes(store.second);
  needed_bytes_ += slack;
  for (;;) {
    if (overflowed_) return NoRoom();
    auto charge = core_.budget.Take(ChargeKind::kSlab, needed_bytes_, "room for a restore");
    if (charge) {
      reserved_ = std::move(*charge);
      return {};
    }
    Store* const warm = core_.eviction.all.warm_stores.oldest();
    if (warm == nullptr || !warm->GiveBack(needed_bytes_)) return NoRoom();
  }
}

Result<std::vector<SlotToFill>> Restoration::Begin(std::uint64_t number) {
  if (!closed_ || number >= entries_.size() || entries_[number].step != Step::kWanted) {
    return Invalid(number, "its bytes are not wanted, or came already");
  }
  Entry& entry = entries_[number];
  Store& store = *entry.store;
  const Offered shape{
      .tokens = entry.tokens, .parent = entry.parent, .sink_type = entry.sink_type, .state_bytes = entry.state_bytes};
  reserved_.GiveBack(std::min<std::size_t>(reserved_.bytes(), BytesOf(store, shape)));
  auto pending = store.Reserve(entry.sink_type);
  if (!pending) return pending.error();
  const protocol::BlockInfo info{.kind = protocol::BlockKind::kCodes,
                                 .element_type = 0,
                                 .identity = store.identity(),
                                 .chain = entry.chain,
                                 .parent = entry.before,
                                 .first_position = entry.position,
                                 .generation = pending->generation()};
  std::vector<SlotToFill> slots;
  const auto add = [&](std::shared_ptr<Slab> slab, std::uint32_t slot, std::uint64_t bytes) -> SlotToFill& {
    std::byte* const payload = slab->slot(slot) + protocol::PayloadOffset(store.spec().block_tokens);
    slots.push_back({.slab = std::move(slab),
                     .slot = slot,
                     .payload = payload,
                     .bytes = bytes,
                     .checksum = 0,
                     .info = info,
                     .block_tokens = store.spec().block_tokens,
                     .tokens = entry.tokens});
    return slots.back();
  };
  for (const BlockPart& part : pending->parts()) {
    SlotToFill& slot = add(store.pool().slab(part.slot.slab), part.slot.slot, part.payload_bytes);
    if (part.kind != protocol::BlockKind::kSinks) continue;
    slot.info.kind = part.kind;
    slot.info.element_type = static_cast<std::uint32_t>(part.element_type);
    slot.tokens = slot.tokens.first(store.spec().sink_tokens);
  }
  if (entry.state_bytes != 0) {
    auto state = store.ReserveState(entry.state_bytes);
    if (!state) return state.error();
    entry.state = *std::move(state);
    SlotToFill& slot = add(entry.state->slab(), entry.state->slot().slot, entry.state_bytes);
    slot.info.kind = protocol::BlockKind::kState;
    slot.info.generation = entry.state->generation();
  }
  entry.pending.emplace(std::move(*pending));
  entry.step = Step::kBegun;
  return slots;
}

void Restoration::Filled(std::uint64_t number) {
  KVANT_CHECK(entries_.at(number).step == Step::kBegun, number);
  entries_[number].step = Step::kFilled;
}

Result<Restoration::Figures> Restoration::Commit() {
  if (!closed_ || overflowed_) return Invalid(offers_, "room was not reserved");
  for (std::size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    if (entry.step != Step::kPresent && entry.step != Step::kFilled) return Invalid(i, "its bytes have not come");
    if (entry.store->dropped()) {
      return Error{ErrorCode::kUnavailable, "restore: store " + entry.store->name() + " was dropped meanwhile"};
    }
  }
  Figures figures;
  for (Entry& entry : entries_) {
    if (entry.step == Step::kPresent) {
      ++figures.present;
      continue;
    }
    Block* const parent = entry.parent == kNoParent ? nullptr : entries_[entry.parent].block;
    // Somebody may have sealed the same block meanwhile.
    entry.block = entry.store->FindWhole(parent, entry.chain, entry.tokens);
    if (entry.block != nullptr) {
      ++figures.present;
    } else {
      entry.block = std::move(*entry.pending).Link(entry.chain, parent, entry.position, std::move(entry.tokens), 0);
      ++figures.restored;
    }
    if (entry.block->state == nullptr) entry.block->state = std::move(entry.state);
  }
  for (Entry& entry : entries_) {
    if (entry.step == Step::kPresent) entry.store->index().DropLease(*entry.block);
  }
  entries_.clear();
  reserved_ = {};
  return figures;
}

}  // namespace kvant::daemon
