#include "daemon/memory/block_pool.h"

#include <algorithm>
#include <string>
#include <utility>

#include "daemon/memory/check.h"

namespace kvant::daemon {
namespace {

/// Bytes populated ahead of need at most, so that encoding seldom meets a fresh page; and no more than a part of what the store
/// holds already, so that small stores stay small.
constexpr std::size_t kPopulateAheadBytes = std::size_t{2} << 20;
constexpr std::size_t kPopulateAheadShare = 4;

std::uint32_t SlotsIn(std::size_t bytes, std::uint64_t slot_bytes) {
  return static_cast<std::uint32_t>(std::max<std::uint64_t>(1, bytes / slot_bytes));
}

}  // namespace

BlockPool::BlockPool(const Shape& shape, Budget& budget, JobRunner& populate, Keeper* keeper)
    : shape_(shape), budget_(budget), populate_(populate), keeper_(keeper), self_(std::make_shared<BlockPool*>(this)) {}

BlockPool::~BlockPool() {
  self_.reset();
  for (auto& [index, slab] : slabs_) Retire(*slab);
}

void BlockPool::Retire(Slab& slab) {
  if (keeper_ != nullptr) keeper_->Release(slab.read_only_fd());
  slab.Retire();
}

void BlockPool::NoteWarm(std::uint64_t slot_bytes, std::size_t slots) {
  sizes_.at(slot_bytes).warm += slots;
  warm_slots_ += slots;
}

void BlockPool::NoteTaken(std::uint64_t slot_bytes, std::size_t slots) {
  sizes_.at(slot_bytes).warm -= slots;
  warm_slots_ -= slots;
}

Result<SlotRef> BlockPool::Allocate(std::uint64_t slot_bytes) {
  KVANT_CHECK(slot_bytes != 0 && slot_bytes % 64 == 0, slot_bytes);
  Result<SlotRef> slot = WarmSlot(slot_bytes);
  if (!slot) return slot;
  slabs_.at(slot->slab)->Use(slot->slot);
  NoteTaken(slot_bytes, 1);
  ++sizes_.at(slot_bytes).used;
  ++used_slots_;
  PopulateAhead(slot_bytes);
  return slot;
}

/// The lowest warm slot; if there is none, the lowest cold one, warmed.
Result<SlotRef> BlockPool::WarmSlot(std::uint64_t slot_bytes) {
  SizeClass& size = sizes_[slot_bytes];
  if (size.warm != 0) {
    for (const std::uint32_t index : size.slabs) {
      if (const auto warm = slabs_.at(index)->FindWarm()) return SlotRef{index, *warm};
    }
  }
  const auto warm_up = [&](Slab& slab, std::uint32_t slot) -> Result<SlotRef> {
    const std::size_t bytes = slab.BytesToWarm(slot);
    Result<Charge> charge =
        budget_.Take(ChargeKind::kSlab, bytes, "the pages of a slot of " + std::to_string(slot_bytes) + " bytes");
    if (!charge) return charge.error();
    slab.Warm(slot, std::move(*charge));
    NoteWarm(slot_bytes, 1);
    return SlotRef{slab.header().slab_index, slot};
  };
  for (const std::uint32_t index : size.slabs) {
    Slab& slab = *slabs_.at(index);
    if (const auto cold = slab.FindCold()) return warm_up(slab, *cold);
  }
  Result<std::shared_ptr<Slab>> slab = AddSlab(slot_bytes);
  if (!slab) return slab.error();
  Result<SlotRef> slot = warm_up(**slab, 0);
  if (slot) {
    const std::uint32_t index = next_index_++;
    size.slabs.insert(index);
    // Before anything is sealed in it: what a client was told is there outlives this process.
    if (keeper_ != nullptr) keeper_->Keep((*slab)->read_only_fd());
    slabs_.emplace(index, std::move(*slab));
  }
  return slot;
}

void BlockPool::Free(SlotRef slot) {
  Slab& slab = *slabs_.at(slot.slab);
  slab.Free(slot.slot);
  --sizes_.at(slab.header().slot_bytes).used;
  --used_slots_;
  if (slab.trimmed(slot.slot)) {
    slab.Cool(slot.slot);                              // pages of it are missing
    if (slab.used_slots() + slab.warm_slots() == 0) {  // nobody would look at it again: nothing of it is warm
      sizes_.at(slab.header().slot_bytes).slabs.erase(slot.slab);
      Retire(slab);
      slabs_.erase(slot.slab);
    }
  } else {
    NoteWarm(slab.header().slot_bytes, 1);
  }
}

Result<std::shared_ptr<Slab>> BlockPool::Adopt(int fd) {
  Result<protocol::MappedSegment> mapped = protocol::MapSegment(fd, {.kind = protocol::SegmentKind::kSlab,
                                                                     .access = protocol::Access::kReadOnly,
                                                                     .bytes = std::nullopt,
                                                                     .boot_token = std::nullopt,
                                                                     .identity = shape_.identity});
  if (!mapped) return mapped.error();
  Result<protocol::SlabHeader> header = protocol::ReadSlabHeader(mapped->data(), mapped->size());
  if (!header) return header.error();
  if (header->owner != shape_.owner) {
    return Error{ErrorCode::kCorrupt, "adopt slab " + std::to_string(header->slab_index) + ": it is another tenant's"};
  }
  if (header->block_tokens != shape_.block_tokens || slabs_.contains(header->slab_index)) {
    return Error{ErrorCode::kCorrupt, "adopt slab " + std::to_string(header->slab_index) + " with blocks of " +
                                          std::to_string(header->block_tokens) +
                                          " tokens: another one is here, or its store has " +
                                          std::to_string(shape_.block_tokens)};
  }
  Result<Charge> page = budget_.Take(ChargeKind::kSlab, Slab::kHeaderBytes, "the header of a slab");
  if (!page) return page.error();
  Result<Charge> record =
      budget_.Take(ChargeKind::kMetadata, Slab::RecordBytes(header->slot_bytes, header->slot_count), "the record of a slab");
  if (!record) return record.error();
  Result<std::shared_ptr<Slab>> slab = Slab::Adopt(fd, *header, shape_.boot_token, std::move(*page), std::move(*record));
  if (!slab) return slab;
  sizes_[header->slot_bytes].slabs.insert(header->slab_index);
  slabs_.emplace(header->slab_index, *slab);
  next_index_ = std::max(next_index_, header->slab_index + 1);
  return slab;
}

Result<void> BlockPool::AdoptSlot(SlotRef slot, std::uint64_t bytes) {
  Slab& slab = *slabs_.at(slot.slab);
  const std::uint64_t slot_bytes = slab.header().slot_bytes;
  bytes = std::min(bytes, slot_bytes);
  Result<Charge> charge = budget_.Take(ChargeKind::kSlab, slab.BytesToWarm(slot.slot, bytes), "the pages of a restored slot");
  if (!charge) return charge.error();
  slab.Warm(slot.slot, std::move(*charge), bytes);
  slab.Use(slot.slot);
  slab.NotePresent(slot.slot);
  ++sizes_.at(slot_bytes).used;
  ++used_slots_;
  return {};
}

std::size_t BlockPool::LeastBytes(std::uint64_t slot_bytes) noexcept {
  // A slot that begins inside a page takes parts of two more pages than it fills.
  const std::size_t pages = slot_bytes / protocol::kPageBytes + 2;
  return pages * protocol::kPageBytes + Slab::kHeaderBytes +
         Slab::RecordBytes(slot_bytes, SlotsIn(kSmallestSlabBytes, slot_bytes));
}

/// A slab that is not in the tables yet.
Result<std::shared_ptr<Slab>> BlockPool::AddSlab(std::uint64_t slot_bytes) {
  const SizeClass& size = sizes_.at(slot_bytes);
  const std::size_t bytes = std::clamp((size.used + size.warm) * slot_bytes, kSmallestSlabBytes, kLargestSlabBytes);
  std::uint32_t slots = SlotsIn(bytes, slot_bytes);
  // What LeastBytes promises must do.
  if (LeastBytes(slot_bytes) + Slab::RecordBytes(slot_bytes, slots) > budget_.available()) {
    slots = SlotsIn(kSmallestSlabBytes, slot_bytes);
  }
  Result<Charge> header = budget_.Take(ChargeKind::kSlab, Slab::kHeaderBytes, "the header of a slab");
  if (!header) return header.error();
  Result<Charge> record = budget_.Take(ChargeKind::kMetadata, Slab::RecordBytes(slot_bytes, slots), "the record of a slab");
  if (!record) return record.error();
  return Slab::Create({.index = next_index_,
                       .slot_count = slots,
                       .slot_bytes = slot_bytes,
                       .block_tokens = shape_.block_tokens,
                       .identity = shape_.identity,
                       .boot_token = shape_.boot_token,
                       .owner = shape_.owner},
                      std::move(*header), std::move(*record));
}

void BlockPool::PopulateAhead(std::uint64_t slot_bytes) {
  SizeClass& size = sizes_.at(slot_bytes);
  const std::size_t ahead = std::min<std::size_t>(kPopulateAheadBytes / slot_bytes, size.used / kPopulateAheadShare);
  // In steps: asking for every single slot would be a job per block. And only while the budget has plenty, because a slot
  // cannot be given back while a job populates it.
  const std::size_t plenty = budget_.limit() / 8;
  if (ahead == 0 || size.warm > ahead / 2) return;
  for (const std::uint32_t index : size.slabs) {
    const std::shared_ptr<Slab>& slab = slabs_.at(index);
    std::vector<std::uint32_t> slots;
    while (size.warm < ahead && budget_.available() >= plenty + slot_bytes) {
      const std::optional<std::uint32_t> cold = slab->FindCold();
      if (!cold) break;
      Result<Charge> charge = budget_.Take(ChargeKind::kSlab, slab->BytesToWarm(*cold), "a slot ahead of need");
      if (!charge) break;
      slab->Warm(*cold, std::move(*charge));
      slab->BeginPopulating(*cold);
      NoteWarm(slot_bytes, 1);
      slots.push_back(*cold);
    }
    if (slots.empty()) continue;
    // A failure is not lost: whoever writes the slot populates it first and meets it again.
    populate_.Submit(
        [slab, slots] {
          for (const std::uint32_t slot : slots) static_cast<void>(slab->Populate(slot).has_value());
        },
        [slab, slots] {
          for (const std::uint32_t slot : slots) slab->EndPopulating(slot);
        });
  }
}

bool BlockPool::GiveBack(std::size_t bytes) {
  std::size_t given = 0;
  bool cooled = false;
  for (auto& [slot_bytes, size] : sizes_) {
    // The highest first: what stays is dense.
    for (auto it = size.slabs.end(); it != size.slabs.begin() && given < bytes;) {
      --it;
      Slab& slab = *slabs_.at(*it);
      for (std::uint32_t slot = slab.header().slot_count; slot-- > 0 && slab.warm_slots() != 0 && given < bytes;) {
        if (!slab.warm(slot) || slab.populating(slot)) continue;
        given += slab.Cool(slot);
        NoteTaken(slot_bytes, 1);
        cooled = true;
      }
      if (slab.used_slots() + slab.warm_slots() != 0) continue;
      given += Slab::kHeaderBytes;
      Retire(slab);
      slabs_.erase(*it);
      it = size.slabs.erase(it);
    }
  }
  return cooled;
}

void BlockPool::DropEmptySlabs() {
  for (auto it = slabs_.begin(); it != slabs_.end();) {
    Slab& slab = *it->second;
    if (slab.used_slots() != 0) {
      ++it;
      continue;
    }
    sizes_.at(slab.header().slot_bytes).slabs.erase(it->first);
    Retire(slab);
    it = slabs_.erase(it);
  }
}

void BlockPool::DropStrayPages() {
  for (auto& [index, slab] : slabs_) slab->DropStrayPages();
}

std::vector<std::shared_ptr<Slab>> BlockPool::slabs(std::uint32_t from_index) const {
  std::vector<std::shared_ptr<Slab>> list;
  for (auto it = slabs_.lower_bound(from_index); it != slabs_.end(); ++it) list.push_back(it->second);
  return list;
}

std::size_t BlockPool::held_bytes() const noexcept {
  std::size_t bytes = 0;
  for (const auto& [index, slab] : slabs_) bytes += slab->held_bytes();
  return bytes;
}

std::size_t BlockPool::warm_bytes() const noexcept {
  std::size_t bytes = 0;
  for (const auto& [slot_bytes, size] : sizes_) bytes += size.warm * slot_bytes;
  return bytes;
}

std::size_t BlockPool::resident_bytes() const noexcept {
  std::size_t bytes = 0;
  for (const auto& [index, slab] : slabs_) bytes += slab->resident_bytes();
  return bytes;
}

}  // namespace kvant::daemon
