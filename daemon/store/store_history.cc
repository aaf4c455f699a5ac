// What a store takes note of for its operators: how searches for prefixes end, which blocks go and come back, whose limit
// refuses.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/store/store.h"
#include "protocol/digest.h"

namespace kvant::daemon {

std::vector<Block*> Store::LookUp(std::span<const std::uint32_t> tokens, bool want_state) {
  const std::uint32_t block_tokens = spec().block_tokens;
  std::vector<Block*> prefix = index_.LongestPrefix(identity_, tokens, block_tokens);
  LookupEnds& ends = core_.history.lookup_ends;
  std::uint64_t* end = prefix.size() == tokens.size() / block_tokens ? &ends.complete : &ends.unknown;
  for (std::size_t i = 0; i < prefix.size(); ++i) {
    if (Whole(*prefix[i])) continue;
    prefix.resize(i);
    end = &ends.corrupt;
  }
  if (end == &ends.unknown && NoteMissed(prefix, tokens) != 0) end = &ends.evicted;
  while (want_state && !prefix.empty() && prefix.back()->state == nullptr) {
    prefix.pop_back();
    end = &ends.no_state;
  }
  ++*end;
  return prefix;
}

/// Counts those blocks of `tokens` behind `found` that were there once and were evicted; returns how many.
std::uint64_t Store::NoteMissed(std::span<Block* const> found, std::span<const std::uint32_t> tokens) {
  const std::uint32_t block_tokens = spec().block_tokens;
  protocol::Digest chain = found.empty() ? identity_ : found.back()->chain;
  std::uint64_t missed = 0;
  for (std::size_t begin = found.size() * block_tokens; begin + block_tokens <= tokens.size(); begin += block_tokens) {
    chain = protocol::ChainDigest(chain, tokens.subspan(begin, block_tokens));
    const auto evicted_ms = core_.history.evicted.Find(chain, tenant_.get());
    if (!evicted_ms) break;
    core_.history.times.missed.Add(core_.eviction.now_ms - *evicted_ms);
    ++missed;
  }
  counters_.evicted_then_wanted_blocks += missed;
  return missed;
}

void Store::NoteUse(Block& block, std::uint32_t priority) {
  core_.history.times.reuse.Add(core_.eviction.now_ms - block.retention.last_use_ms);
  index_.NoteUse(block, priority);
}

void Store::NoteEviction(const Block& block) {
  const std::uint64_t now = core_.eviction.now_ms;
  core_.history.times.lifetime.Add(now - block.retention.sealed_ms);
  core_.history.times.idle.Add(now - block.retention.last_use_ms);
  core_.history.evicted.Remember(block.chain, tenant_.get(), now);
  ++counters_.evicted_blocks;
  TellOfBlock("block_evicted", block);
}

void Store::TellOfStore(std::string_view kind) const {
  if (!core_.events.watched()) return;
  core_.events.Tell(kind, {{"store", names_.empty() ? spec().name : name()},
                           {"tenant", tenant_ ? tenant_->name : std::string()},
                           {"identity", hex_},
                           {"blocks", index_.size()}});
}

void Store::TellOfBlock(std::string_view kind, const Block& block) const {
  if (!core_.events.watched()) return;
  core_.events.Tell(kind, {{"store", name()},
                           {"tenant", tenant_ ? tenant_->name : std::string()},
                           {"first_position", block.first_position},
                           {"chain", protocol::DigestHex(block.chain)},
                           {"bytes", SlotBytesOf(block)},
                           {"idle_ms", core_.eviction.now_ms - block.retention.last_use_ms}});
}

void Store::NoteNoRoom(std::size_t bytes) {
  RoomRefusals& refusals = core_.history.room_refusals;
  if (budget_->own_available() < bytes) {
    ++refusals.store_quota;
  } else if (tenant_ && tenant_->budget->own_available() < bytes) {
    ++refusals.tenant_quota;
  } else {
    ++refusals.budget;
  }
}

}  // namespace kvant::daemon
