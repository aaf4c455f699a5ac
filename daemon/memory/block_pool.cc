#include "daemon/memory/block_pool.h"

#include <algorithm>
#include <string>
#include <utility>

#include "protocol/segment_layout.h"

namespace kvant::daemon {
namespace {

/// Bytes populated ahead of the highest slot in use: a few blocks, so that encoding seldom meets a fresh page.
constexpr std::size_t kPopulateAheadBytes = std::size_t{2} << 20;

}  // namespace

BlockPool::BlockPool(const Shape& shape, Budget& budget, JobRunner& populate)
    : shape_(shape), budget_(budget), populate_(populate) {}

BlockPool::~BlockPool() = default;

Result<SlotRef> BlockPool::Allocate() {
  if (free_.empty()) {
    if (Result<void> added = AddSlab(); !added) return added.error();
  }
  const SlotRef slot = *free_.begin();
  free_.erase(free_.begin());
  Entry& entry = slabs_.at(slot.slab);
  ++entry.used;
  ++used_slots_;
  PopulateAhead(entry, slot.slot);
  return slot;
}

void BlockPool::Free(SlotRef slot) {
  Entry& entry = slabs_.at(slot.slab);
  entry.slab->Clear(slot.slot);
  --entry.used;
  --used_slots_;
  free_.insert(slot);
}

Result<void> BlockPool::AddSlab() {
  const std::size_t target = std::min(kTargetSlabBytes, budget_.limit() / 16);
  const std::size_t bytes = std::max(smallest_slab_bytes(), std::min(target, budget_.available()));
  const auto slots =
      static_cast<std::uint32_t>(std::max<std::uint64_t>(1, (bytes - protocol::kSegmentHeaderBytes) / shape_.slot_bytes));
  // Rounding up to pages must not take more than there is.
  const std::uint32_t fitting =
      slots > 1 && Slab::SegmentBytes(shape_.slot_bytes, slots) > budget_.available() ? slots - 1 : slots;

  Result<Charge> charge = budget_.Take(ChargeKind::kSlab, Slab::SegmentBytes(shape_.slot_bytes, fitting),
                                       "a slab of " + std::to_string(fitting) + " blocks");
  if (!charge) return charge.error();
  Result<std::shared_ptr<Slab>> slab = Slab::Create({.index = next_index_,
                                                     .slot_count = fitting,
                                                     .slot_bytes = shape_.slot_bytes,
                                                     .block_tokens = shape_.block_tokens,
                                                     .identity = shape_.identity,
                                                     .boot_token = shape_.boot_token});
  if (!slab) return slab.error();
  for (std::uint32_t i = 0; i < fitting; ++i) free_.insert({next_index_, i});
  slabs_.emplace(next_index_, Entry{std::move(*slab), std::move(*charge), 0, 0});
  ++next_index_;
  return {};
}

void BlockPool::PopulateAhead(Entry& entry, std::uint32_t slot) {
  const std::uint32_t ahead = static_cast<std::uint32_t>(std::max<std::uint64_t>(1, kPopulateAheadBytes / shape_.slot_bytes));
  const std::uint32_t end = std::min(entry.slab->shape().slot_count, slot + 1 + ahead);
  // In steps: asking for every single slot would be a job per block.
  if (end < entry.populate_to + std::max<std::uint32_t>(1, ahead / 2) && end < entry.slab->shape().slot_count) return;
  if (end <= entry.populate_to) return;
  entry.populate_to = end;
  // A failure is not lost: whoever writes the slot populates it first and meets it again.
  populate_.Submit([slab = entry.slab, end] { static_cast<void>(slab->Populate(end).has_value()); }, [] {});
}

std::size_t BlockPool::DropEmptySlabs() {
  std::size_t bytes = 0;
  for (auto it = slabs_.begin(); it != slabs_.end();) {
    if (it->second.used != 0) {
      ++it;
      continue;
    }
    bytes += it->second.slab->bytes();
    free_.erase(free_.lower_bound({it->first, 0}), free_.lower_bound({it->first + 1, 0}));
    it = slabs_.erase(it);
  }
  return bytes;
}

std::vector<std::shared_ptr<Slab>> BlockPool::slabs(std::uint32_t from_index) const {
  std::vector<std::shared_ptr<Slab>> list;
  for (auto it = slabs_.lower_bound(from_index); it != slabs_.end(); ++it) list.push_back(it->second.slab);
  return list;
}

std::size_t BlockPool::slab_bytes() const noexcept {
  std::size_t bytes = 0;
  for (const auto& [index, entry] : slabs_) bytes += entry.slab->bytes();
  return bytes;
}

std::size_t BlockPool::resident_bytes() const noexcept {
  std::size_t bytes = 0;
  for (const auto& [index, entry] : slabs_) bytes += entry.slab->resident_bytes();
  return bytes;
}

}  // namespace kvant::daemon
