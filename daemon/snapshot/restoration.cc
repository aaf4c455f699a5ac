#include "daemon/snapshot/restoration.h"

#include <algorithm>
#include <string>
#include <utility>

#include "daemon/memory/check.h"
#include "daemon/store/state_slot.h"
#include "protocol/digest.h"
#include "protocol/hidden_slot.h"

namespace kvant::daemon {
namespace {

Error Invalid(std::uint64_t number, const std::string& why) {
  return {ErrorCode::kInvalidArgument, "restore block " + std::to_string(number) + ": " + why};
}

/// Of the block's slots and records.
std::uint64_t BytesOf(const Store& store, const Restoration::Offered& block) {
  const std::uint64_t whole = store.slot_bytes();
  // A slot that is cut down begins and ends in pages that nothing else may hold.
  const std::uint64_t cut = store.SlotBytes(block.codes_bytes) + 2 * protocol::kPageBytes;
  std::uint64_t bytes = block.codes_bytes == 0 ? whole : std::min(whole, cut);
  bytes += kBlockRecordBytes + block.tokens.size_bytes();
  if (block.sink_type) bytes += store.SlotBytes(store.SinkBytes(*block.sink_type));
  // A slot of a state is larger by an eighth at most.
  if (block.state_bytes != 0) bytes += store.SlotBytes(block.state_bytes + block.state_bytes / 8) + kStateRecordBytes;
  return bytes;
}

}  // namespace

Result<void> SlotToFill::Finish() const {
  std::byte* const begin = slab->slot(slot);
  protocol::FinishHiddenSlot(begin, block_tokens, info, tokens, bytes);
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

std::uint64_t Restoration::RecordBytes(const Offered& block) { return sizeof(Entry) + block.tokens.size_bytes(); }

std::uint64_t Restoration::SlackOf(const Store& store, std::uint64_t bytes) {
  // What slabs take beside slots: a page and a record each, and pages that slots begin and end in.
  return bytes / 128 + 2 * BlockPool::LeastBytes(store.slot_bytes());
}

bool Restoration::Fits(const std::shared_ptr<Store>& store, const Offered& block) const {
  const auto room = rooms_.find(store.get());
  const std::uint64_t bytes = (room == rooms_.end() ? 0 : room->second.bytes) + BytesOf(*store, block);
  std::uint64_t all = bytes + SlackOf(*store, bytes) + RecordBytes(block);
  if (all > store->budget().available()) return false;
  for (const auto& [other, of] : rooms_) {
    if (other != store.get()) all += of.bytes + SlackOf(*other, of.bytes);
  }
  return all <= core_.budget.available();
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
  const std::uint64_t codes_bytes = block.codes_bytes == 0 ? store->plan()->payload_bytes() : block.codes_bytes;
  const std::size_t sections = store->plan()->SectionsOf(codes_bytes);
  if (sections == 0) {
    return Invalid(number, std::to_string(codes_bytes) + " bytes of codes, blocks of store " + store->name() + " have " +
                               std::to_string(store->plan()->payload_bytes()) + " or end where one of their planes does");
  }
  Entry entry{.store = store,
              .parent = block.parent,
              .chain = {},
              .before = store->identity(),
              .position = 0,
              .tokens = {},
              .sink_type = block.sink_type,
              .state_bytes = block.state_bytes,
              .sections = sections,
              .step = Step::kWanted,
              .block = nullptr,
              .pending = std::nullopt,
              .state = nullptr,
              .hidden = {},
              .hidden_state = nullptr};
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
  Room& room = rooms_[store.get()];
  if (present == nullptr) {
    ++wanted_;
    room.bytes += BytesOf(*store, block);
  }
  if (overflowed_ == nullptr) {
    auto charge = store->budget().Take(ChargeKind::kMetadata, RecordBytes(block), "the record of a block to restore");
    if (charge) {
      room.records.Merge(std::move(*charge));
    } else {
      overflowed_ = store.get();
    }
  }
  if (overflowed_ != nullptr) return true;  // counted only
  entry.tokens.assign(block.tokens.begin(), block.tokens.end());
  if (present != nullptr) {
    entry.step = Step::kPresent;
    entry.block = present;
    store->index().AddLease(*present);
  }
  entries_.push_back(std::move(entry));
  return present == nullptr;
}

Error Restoration::NoRoom(Store& store) {
  std::uint64_t all = 0;
  for (auto& [each, room] : rooms_) {
    room.reserved = {};
    all += room.bytes + SlackOf(*each, room.bytes) + room.records.bytes();
  }
  const Budget& level = store.budget().tightest();
  const Room& room = rooms_[&store];
  // A store's own quota has to do with its blocks only, its tenant's and the daemon's with all of them.
  const bool own = &level == &store.budget();
  std::uint64_t held = 0;
  for (const auto& [each, of] : rooms_) held += own && each != &store ? 0 : of.records.bytes();
  const std::uint64_t needed = own ? room.bytes + SlackOf(store, room.bytes) + room.records.bytes() : all;
  const std::uint64_t free = level.own_available() + held;
  const std::uint64_t missing = needed > free ? needed - free : 0;
  return {ErrorCode::kStoreFull, "restore " + std::to_string(wanted_) + " blocks: they need " + std::to_string(needed) +
                                     " bytes, " + std::to_string(free) + " of the " + level.Name() + " are free: " +
                                     std::to_string(missing) + " bytes are missing; evict blocks or raise the budget"};
}

/// Takes room for one store; what is warm, and nobody's, makes room.
Result<void> Restoration::Take(Store& store, Room& room) const {
  const std::uint64_t bytes = room.bytes + SlackOf(store, room.bytes);
  for (;;) {
    auto charge = store.budget().Take(ChargeKind::kSlab, bytes, "room for a restore");
    if (charge) {
      room.reserved = std::move(*charge);
      return {};
    }
    const bool daemons = &store.budget().tightest() == &core_.budget;
    Store* const warm = daemons                     ? core_.eviction.all.warm_stores.oldest()
                        : store.tenant() != nullptr ? store.tenant()->scope.warm_stores.oldest()
                                                    : nullptr;
    if (warm == nullptr || !warm->GiveBack(bytes)) return charge.error();
  }
}

Result<void> Restoration::Reserve() {
  if (std::exchange(closed_, true)) return Invalid(offers_, "room was reserved already");
  if (overflowed_ != nullptr) return NoRoom(*overflowed_);
  for (auto& [store, room] : rooms_) {
    if (room.bytes != 0 && !Take(*store, room)) return NoRoom(*store);
  }
  return {};
}

Result<std::vector<SlotToFill>> Restoration::Begin(std::uint64_t number) {
  if (!closed_ || number >= entries_.size() || entries_[number].step != Step::kWanted) {
    return Invalid(number, "its bytes are not wanted, or came already");
  }
  Entry& entry = entries_[number];
  Store& store = *entry.store;
  Charge& reserved = rooms_[&store].reserved;
  const Offered shape{.tokens = entry.tokens,
                      .parent = entry.parent,
                      .sink_type = entry.sink_type,
                      .state_bytes = entry.state_bytes,
                      .codes_bytes = store.plan()->section_end(entry.sections - 1)};
  // A slot that is cut down is a whole one for a moment.
  const std::uint64_t spare = BlockPool::LeastBytes(store.slot_bytes());
  reserved.GiveBack(std::min<std::size_t>(reserved.bytes(), BytesOf(store, shape) + spare));
  auto pending = store.Reserve(entry.sink_type, entry.sections);
  if (!pending) return pending.error();
  if (auto back = store.budget().Take(ChargeKind::kSlab, spare, "room for a restore")) reserved.Merge(std::move(*back));
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
    entry.hidden.push_back(slot.slab->slot(slot.slot));
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
    entry.hidden_state = slot.slab->slot(slot.slot);
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
  if (!closed_ || overflowed_ != nullptr) return Invalid(offers_, "room was not reserved");
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
      entry.hidden.clear();
      ++figures.present;
    } else {
      entry.block = std::move(*entry.pending).Link(entry.chain, parent, entry.position, std::move(entry.tokens), 0);
      ++figures.restored;
    }
    if (entry.block->state == nullptr && entry.state != nullptr) {
      entry.block->state = std::move(entry.state);
      entry.hidden.push_back(entry.hidden_state);
    }
  }
  // The first block of a text last: until then a successor drops what continues it.
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    for (std::byte* const slot : entry->hidden) protocol::RevealSlot(slot);
  }
  for (Entry& entry : entries_) {
    if (entry.step == Step::kPresent) entry.store->index().DropLease(*entry.block);
  }
  // As in the file, what comes first was used last.
  for (auto entry = entries_.rbegin(); entry != entries_.rend(); ++entry) {
    entry->store->index().AddLease(*entry->block);
    entry->store->index().DropLease(*entry->block);
  }
  entries_.clear();
  rooms_.clear();
  return figures;
}

}  // namespace kvant::daemon
