// The slots of one store: slabs as they are needed, and which slots are free.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include <kvant/result.h>

#include "daemon/memory/budget.h"
#include "daemon/memory/job_runner.h"
#include "daemon/memory/keeper.h"
#include "daemon/memory/slab.h"

namespace kvant::daemon {

/// Names a slot of a store.
struct SlotRef {
  std::uint32_t slab = 0;
  std::uint32_t slot = 0;
  friend bool operator==(const SlotRef&, const SlotRef&) = default;
  friend auto operator<=>(const SlotRef&, const SlotRef&) = default;
};

/// Hands out slots of any size, each size from slabs of its own, lowest first, so that few pages are ever held, and charges the
/// pages it holds. A freed slot stays warm, unless it was cut down: it is used again without asking the system, until GiveBack.
/// Knows nothing of what a slot holds and evicts nothing. Owned by a store; loop thread.
class BlockPool {
 public:
  struct Shape {
    std::uint32_t block_tokens = 0;
    protocol::Digest identity{};
    std::uint64_t boot_token = 0;
    protocol::Digest owner{};  ///< as SlabHeader
  };

  /// A new slab has room for as much as its store holds already in slots of that size, between these two; most of it holes.
  static constexpr std::size_t kSmallestSlabBytes = std::size_t{1} << 20;
  static constexpr std::size_t kLargestSlabBytes = std::size_t{32} << 20;

  /// `budget`, `populate` and `keeper` (null for none), which is told of each slab, outlive the pool. Slots are warmed and
  /// populated ahead of need by jobs of `populate`, a few and only while the budget has plenty.
  BlockPool(const Shape& shape, Budget& budget, JobRunner& populate, Keeper* keeper = nullptr);
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  /// A free slot of `slot_bytes` bytes (a multiple of 64). kStoreFull if the budget has no room for the pages it takes: call
  /// again after anything was freed. kSystem if the system has no memory. The slot's header is zero; its pages may be missing
  /// yet (Slab::Populate).
  Result<SlotRef> Allocate(std::uint64_t slot_bytes);
  void Free(SlotRef slot);

  /// Takes over a slab of this store that another process made, by a descriptor of it; no slot of it is used. Errors as
  /// protocol::MapSegment and Allocate. Requires: no slab of that index is here.
  Result<std::shared_ptr<Slab>> Adopt(int fd);
  /// Uses a slot of an adopted slab, with what lies in its first `bytes`. Errors as Allocate. Requires: the slot is cold.
  Result<void> AdoptSlot(SlotRef slot, std::uint64_t bytes);
  /// See Slab::Trim.
  std::size_t Trim(SlotRef slot, std::uint64_t bytes) { return slabs_.at(slot.slab)->Trim(slot.slot, bytes); }

  /// The most that Allocate may need from the budget for one slot.
  static std::size_t LeastBytes(std::uint64_t slot_bytes) noexcept;

  /// Cools warm slots and gives back their pages, and slabs that hold nothing, until that makes `bytes` or no slot is warm.
  /// Returns false if no slot was cooled.
  bool GiveBack(std::size_t bytes);

  /// Gives back adopted slabs of which no slot is used. Requires: no slot is warm.
  void DropEmptySlabs();

  /// See Slab::DropStrayPages.
  void DropStrayPages();

  [[nodiscard]] std::byte* Address(SlotRef slot) const { return slabs_.at(slot.slab)->slot(slot.slot); }
  /// By index, ascending; indices are never reused. Shared: clients are sent descriptors of them.
  [[nodiscard]] std::vector<std::shared_ptr<Slab>> slabs(std::uint32_t from_index = 0) const;
  [[nodiscard]] const std::shared_ptr<Slab>& slab(std::uint32_t index) const { return slabs_.at(index); }

  [[nodiscard]] std::size_t slab_count() const noexcept { return slabs_.size(); }
  [[nodiscard]] std::size_t held_bytes() const noexcept;
  [[nodiscard]] std::size_t resident_bytes() const noexcept;
  [[nodiscard]] std::size_t used_slots() const noexcept { return used_slots_; }
  /// Kept for the next blocks, and given back as soon as somebody else needs the room.
  [[nodiscard]] std::size_t warm_slots() const noexcept { return warm_slots_; }
  [[nodiscard]] std::size_t warm_bytes() const noexcept;

 private:
  Result<SlotRef> WarmSlot(std::uint64_t slot_bytes);
  Result<std::shared_ptr<Slab>> AddSlab(std::uint64_t slot_bytes);
  void PopulateAhead(std::uint64_t slot_bytes);
  void Retire(Slab& slab);
  void NoteWarm(std::uint64_t slot_bytes, std::size_t slots);
  void NoteTaken(std::uint64_t slot_bytes, std::size_t slots);

  const Shape shape_;
  Budget& budget_;
  JobRunner& populate_;
  Keeper* const keeper_;
  struct SizeClass {
    std::set<std::uint32_t> slabs;
    std::size_t used = 0;  // slots
    std::size_t warm = 0;
  };
  std::map<std::uint64_t, SizeClass> sizes_;  // by bytes of a slot
  std::map<std::uint32_t, std::shared_ptr<Slab>> slabs_;
  std::uint32_t next_index_ = 0;
  std::size_t used_slots_ = 0;
  std::size_t warm_slots_ = 0;
  std::shared_ptr<BlockPool*> self_;  // populating jobs hold it weakly
};

}  // namespace kvant::daemon
