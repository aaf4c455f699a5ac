#include "daemon/store/pins.h"

#include <algorithm>
#include <set>
#include <utility>

#include "daemon/store/store.h"

namespace kvant::daemon {
namespace {

/// Of an entry in a pin's list and in the table of held blocks.
constexpr std::size_t kEntryBytes = 96;

/// The blocks and all that they continue, parents first.
std::vector<Block*> WithWhatTheyContinue(const std::vector<Block*>& blocks) {
  std::set<std::pair<std::uint64_t, Block*>> all;
  for (Block* const last : blocks) {
    for (Block* block = last; block != nullptr; block = block->parent) {
      if (!all.emplace(block->first_position, block).second) break;  // and so are those before it
    }
  }
  std::vector<Block*> ordered;
  for (const auto& [position, block] : all) ordered.push_back(block);
  return ordered;
}

}  // namespace

Pins::~Pins() {
  for (auto& [id, pin] : pins_) Release(pin);
}

Result<PinFigures> Pins::Add(const std::vector<Block*>& blocks, std::chrono::milliseconds time,
                             std::optional<std::uint64_t> old_id) {
  if (time < std::chrono::milliseconds(1) || time > kLongest) {
    return Error{ErrorCode::kInvalidArgument,
                 "pin: " + std::to_string(time.count()) + " ms; 1 to " + std::to_string(kLongest.count()) + " are possible"};
  }
  if (blocks.empty()) return Error{ErrorCode::kNotFound, "pin: no sealed block is meant"};
  Store& store = *blocks.front()->store;
  if (!std::ranges::all_of(blocks, [&](const Block* block) { return block->store == &store; })) {
    return Error{ErrorCode::kInvalidArgument, "pin: blocks of several stores are meant; name one store"};
  }
  if (pins_.size() == kMost) {
    return Error{ErrorCode::kStoreFull, "pin: there are " + std::to_string(kMost) + " pins already"};
  }
  Pin pin{.store = store.shared_from_this(), .blocks = WithWhatTheyContinue(blocks), .charge = {}};
  std::uint64_t more = 0;
  for (const Block* const block : pin.blocks) {
    const std::uint64_t bytes = store.SlotBytesOf(*block);
    pin.bytes += bytes;
    if (!held_.contains(block)) more += bytes;
  }
  const std::uint64_t most = core_.budget.own_limit() / kShareOfBudget;
  if (bytes_ + more > most) {
    return Error{ErrorCode::kStoreFull, "pin: " + std::to_string(more) + " bytes more, pins hold " + std::to_string(bytes_) +
                                            " and may hold " + std::to_string(most) + ", a quarter of the budget"};
  }
  for (Block* const block : pin.blocks) store.index().AddLease(*block);  // first: the record must not evict them
  Result<Charge> charge =
      store.TakeRecord(ChargeKind::kBlockRecord, 256 + pin.blocks.size() * kEntryBytes, "the record of a pin");
  if (!charge) {
    for (auto it = pin.blocks.rbegin(); it != pin.blocks.rend(); ++it) store.index().DropLease(**it);
    return charge.error();
  }
  pin.charge = std::move(*charge);
  pin.end_ms = core_.eviction.now_ms + static_cast<std::uint64_t>(time.count());
  for (const Block* const block : pin.blocks) {
    Held& held = held_[block];
    if (++held.pins == 1) held.bytes = store.SlotBytesOf(*block);
  }
  bytes_ += more;
  const std::uint64_t id = old_id.value_or(next_);
  set_next(id + 1);
  return FiguresOf(id, pins_.emplace(id, std::move(pin)).first->second);
}

void Pins::Release(Pin& pin) {
  for (auto it = pin.blocks.rbegin(); it != pin.blocks.rend(); ++it) {
    Block* const block = *it;
    const auto held = held_.find(block);
    if (--held->second.pins == 0) {
      bytes_ -= held->second.bytes;
      held_.erase(held);
    }
    pin.store->index().DropLease(*block);
  }
}

Result<void> Pins::Remove(std::uint64_t id) {
  const auto found = pins_.find(id);
  if (found == pins_.end()) return Error{ErrorCode::kNotFound, "unpin " + std::to_string(id) + ": there is no such pin"};
  Release(found->second);
  pins_.erase(found);
  return {};
}

void Pins::RemoveOf(const Store& store) {
  RemoveIf([&store](const Pin& pin) { return pin.store.get() == &store; });
}

void Pins::Expire() {
  RemoveIf([now = core_.eviction.now_ms](const Pin& pin) { return pin.end_ms <= now; });
}

void Pins::RemoveIf(const std::function<bool(const Pin&)>& goes) {
  for (auto it = pins_.begin(); it != pins_.end();) {
    if (!goes(it->second)) {
      ++it;
      continue;
    }
    Release(it->second);
    it = pins_.erase(it);
  }
}

PinFigures Pins::FiguresOf(std::uint64_t id, const Pin& pin) const {
  const std::uint64_t now = core_.eviction.now_ms;
  return {.id = id,
          .store = pin.store->name(),
          .tenant = pin.store->tenant() != nullptr ? pin.store->tenant()->name : std::string(),
          .blocks = pin.blocks.size(),
          .bytes = pin.bytes,
          .left_ms = pin.end_ms > now ? pin.end_ms - now : 0};
}

std::map<std::uint64_t, StandingRules::Pin> Pins::rules() const {
  std::map<std::uint64_t, StandingRules::Pin> rules;
  for (const auto& [id, pin] : pins_) {
    std::set<const Block*> continued;
    for (const Block* const block : pin.blocks) continued.insert(block->parent);
    StandingRules::Pin& rule = rules[id];
    rule.tenant = pin.store->tenant() != nullptr ? pin.store->tenant()->name : std::string();
    rule.store = pin.store->identity();
    rule.end_ms = pin.end_ms;
    for (const Block* const block : pin.blocks) {
      if (!continued.contains(block)) rule.ends.push_back(block->chain);
    }
  }
  return rules;
}

std::vector<PinFigures> Pins::list() const {
  std::vector<PinFigures> rows;
  for (const auto& [id, pin] : pins_) rows.push_back(FiguresOf(id, pin));
  return rows;
}

}  // namespace kvant::daemon
