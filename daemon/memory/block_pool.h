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
#include "daemon/memory/slab.h"

namespace kvant::daemon {

/// Names a slot of a store.
struct SlotRef {
  std::uint32_t slab = 0;
  std::uint32_t slot = 0;
  friend bool operator==(const SlotRef&, const SlotRef&) = default;
  friend auto operator<=>(const SlotRef&, const SlotRef&) = default;
};

/// Hands out slots, lowest first, so that few pages are ever touched. Knows nothing of what a slot holds and evicts nothing.
/// Owned by a store; loop thread. Every slab is charged whole to the budget before it is made.
class BlockPool {
 public:
  struct Shape {
    std::uint64_t slot_bytes = 0;
    std::uint32_t block_tokens = 0;
    protocol::Digest identity{};
    std::uint64_t boot_token = 0;
  };

  /// Slabs are this big, or a sixteenth of the budget if that is less, but hold one slot at least; the last one that fits
  /// into a budget may be smaller.
  static constexpr std::size_t kTargetSlabBytes = std::size_t{32} << 20;

  /// `budget` and `populate` outlive the pool. Pages are populated a few slots ahead of the highest slot in use by jobs of
  /// `populate`.
  BlockPool(const Shape& shape, Budget& budget, JobRunner& populate);
  ~BlockPool();
  BlockPool(const BlockPool&) = delete;
  BlockPool& operator=(const BlockPool&) = delete;

  /// A free slot of a slab that is there, or of a new slab if the budget has room for one. kStoreFull if not, kSystem if the
  /// system has no memory. The slot's header is zero; its pages may be missing yet (Slab::Populate).
  Result<SlotRef> Allocate();
  void Free(SlotRef slot);

  /// Drops slabs all of whose slots are free; returns their bytes.
  std::size_t DropEmptySlabs();

  /// Bytes a slab for one slot takes: the least that Allocate may need from the budget.
  [[nodiscard]] std::size_t smallest_slab_bytes() const noexcept { return Slab::SegmentBytes(shape_.slot_bytes, 1); }

  [[nodiscard]] std::byte* Address(SlotRef slot) const { return slabs_.at(slot.slab).slab->slot(slot.slot); }
  /// By index, ascending; indices are never reused. Shared: clients are sent descriptors of them, jobs keep them mapped.
  [[nodiscard]] std::vector<std::shared_ptr<Slab>> slabs(std::uint32_t from_index = 0) const;
  [[nodiscard]] std::shared_ptr<Slab> slab(std::uint32_t index) const { return slabs_.at(index).slab; }

  [[nodiscard]] std::size_t slab_count() const noexcept { return slabs_.size(); }
  [[nodiscard]] std::size_t slab_bytes() const noexcept;
  [[nodiscard]] std::size_t resident_bytes() const noexcept;
  [[nodiscard]] std::size_t used_slots() const noexcept { return used_slots_; }
  [[nodiscard]] std::size_t used_slots(std::uint32_t slab_index) const { return slabs_.at(slab_index).used; }

 private:
  struct Entry {
    std::shared_ptr<Slab> slab;
    Charge charge;
    std::uint32_t used = 0;
    std::uint32_t populate_to = 0;  // slots asked for
  };
  Result<void> AddSlab();
  void PopulateAhead(Entry& entry, std::uint32_t slot);

  const Shape shape_;
  Budget& budget_;
  JobRunner& populate_;
  std::map<std::uint32_t, Entry> slabs_;
  std::set<SlotRef> free_;
  std::uint32_t next_index_ = 0;
  std::size_t used_slots_ = 0;
};

}  // namespace kvant::daemon
