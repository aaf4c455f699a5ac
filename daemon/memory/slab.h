// One memfd of block slots of one size, of which only the pages in use exist.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include <kvant/result.h>

#include "daemon/memory/budget.h"
#include "protocol/mapped_segment.h"
#include "protocol/memfd.h"
#include "protocol/segment_layout.h"

namespace kvant::daemon {

/// A slot is **used** (somebody writes or reads a block there), **warm** (free, its pages kept for the next block) or **cold**
/// (free). A page is held, which means charged to the budget and allowed to exist, while a used or warm slot lies in it; all
/// others are holes. A used slot may be cut down (Trim): it then lies in the pages of its first bytes alone. Giving pages back
/// punches holes: the memory is free whoever still maps it, and a client that looks there reads zeros, which are no block.
///
/// Owned by its pool and, while they run, by populating jobs and by capabilities that were sent to clients. Populate is for any
/// thread, everything else for the loop thread.
class Slab {
 public:
  struct Shape {
    std::uint32_t index = 0;  ///< within the store
    std::uint32_t slot_count = 0;
    std::uint64_t slot_bytes = 0;  ///< a multiple of 64
    std::uint32_t block_tokens = 0;
    protocol::Digest identity{};
    std::uint64_t boot_token = 0;
    protocol::Digest owner{};
  };

  /// What a slab takes beside its slots: the page of its header in the segment, and the daemon's own record of it.
  static constexpr std::size_t kHeaderBytes = protocol::kSegmentHeaderBytes;
  static std::size_t RecordBytes(std::uint64_t slot_bytes, std::uint32_t slot_count) noexcept;

  /// `header` pays for kHeaderBytes, `record` for RecordBytes. Every slot is cold. kSystem if the system gives no memory or no
  /// descriptor.
  static Result<std::shared_ptr<Slab>> Create(const Shape& shape, Charge header, Charge record);
  /// Takes over a slab that another process made, by any descriptor of it: checks it as a client would, and writes `boot_token`
  /// into its header. Charges as for Create. Every slot is cold, whatever lies in it; see PresentSlots.
  static Result<std::shared_ptr<Slab>> Adopt(int fd, const protocol::SlabHeader& header, std::uint64_t boot_token,
                                             Charge header_charge, Charge record);
  Slab(const Slab&) = delete;
  Slab& operator=(const Slab&) = delete;

  [[nodiscard]] const protocol::SlabHeader& header() const noexcept { return header_; }
  /// Of the segment, holes included.
  [[nodiscard]] std::size_t bytes() const noexcept { return header_.slab_bytes; }
  /// Charged to the budget: the header's page and held pages.
  [[nodiscard]] std::size_t held_bytes() const noexcept { return charge_.bytes(); }
  /// Pages that exist, as the system counts them; 0 once retired.
  [[nodiscard]] std::size_t resident_bytes() const noexcept;

  /// For clients; -1 once retired. Stays open until then.
  [[nodiscard]] int read_only_fd() const noexcept { return read_only_fd_.get(); }
  /// Notes that a client may map the slab from now on: see DropStrayPages.
  void NoteShared() noexcept { shared_ = true; }

  /// The lowest warm or cold slot; none if there is none.
  [[nodiscard]] std::optional<std::uint32_t> FindWarm() noexcept;
  [[nodiscard]] std::optional<std::uint32_t> FindCold() noexcept;
  [[nodiscard]] std::uint32_t used_slots() const noexcept { return used_; }
  [[nodiscard]] std::uint32_t warm_slots() const noexcept { return warm_; }
  [[nodiscard]] bool warm(std::uint32_t slot) const { return states_[slot] == State::kWarm; }

  /// What a cold slot needs from the budget to become warm: the pages of it that are not held.
  [[nodiscard]] std::size_t BytesToWarm(std::uint32_t slot) const { return BytesToWarm(slot, header_.slot_bytes); }
  /// Requires: cold, and a charge of BytesToWarm.
  void Warm(std::uint32_t slot, Charge charge) { Warm(slot, std::move(charge), header_.slot_bytes); }
  /// The same of the first `bytes` of a slot, as Trim leaves it.
  [[nodiscard]] std::size_t BytesToWarm(std::uint32_t slot, std::uint64_t bytes) const;
  void Warm(std::uint32_t slot, Charge charge, std::uint64_t bytes);
  /// Requires: warm. The slot's header is zero; its pages may be missing yet.
  void Use(std::uint32_t slot);
  /// A used slot whose pages are there already: of an adopted slab.
  void NotePresent(std::uint32_t slot) noexcept { present_[slot].store(true, std::memory_order_release); }
  /// Makes a used slot warm; it no longer looks like a block. One that was cut down must be cooled next.
  void Free(std::uint32_t slot);
  /// Gives back the pages of a used slot that lie behind its first `bytes` and that nothing else holds; returns their bytes.
  /// What is left of the slot stays where it is until it is freed. 0 while a job populates it.
  std::size_t Trim(std::uint32_t slot, std::uint64_t bytes);
  [[nodiscard]] bool trimmed(std::uint32_t slot) const { return missing_pages_[slot] != 0; }
  /// Makes a warm slot cold and gives back the pages that nothing else holds; returns their bytes. Requires: no job populates
  /// it.
  std::size_t Cool(std::uint32_t slot);

  [[nodiscard]] std::byte* slot(std::uint32_t i) const noexcept { return segment_->data() + protocol::SlotOffset(header_, i); }
  [[nodiscard]] std::span<const std::byte> slot_bytes(std::uint32_t i) const noexcept { return {slot(i), header_.slot_bytes}; }

  /// Makes the pages of a slot present. Requires: used or warm, and so it stays while this runs. kSystem (no memory) instead of
  /// a SIGBUS at the first touch. Any thread; cheap when they are present already.
  Result<void> Populate(std::uint32_t slot);
  /// Keeps a warm slot warm, or used, while a job populates it.
  void BeginPopulating(std::uint32_t slot);
  void EndPopulating(std::uint32_t slot);
  [[nodiscard]] bool populating(std::uint32_t slot) const { return populating_[slot]; }

  /// A client that touches a hole of its mapping makes the system put a page there. Punches such pages again; returns whether
  /// there were any. Cheap for slabs no client was ever sent.
  bool DropStrayPages();

  struct PresentSlot {
    std::uint32_t slot = 0;
    std::uint64_t bytes = 0;  ///< whose pages exist, from the slot's start on
  };
  /// Slots whose first page exists, found without touching any. For adopted slabs.
  [[nodiscard]] std::vector<PresentSlot> PresentSlots() const;

  /// The end of a slab: its memory and descriptor go now, whoever still holds the object or maps the segment. If a job
  /// populates it, as soon as that has ended. Nothing else may be called afterwards but read_only_fd, bytes and EndPopulating.
  void Retire();

 private:
  enum class State : std::uint8_t { kCold, kWarm, kUsed };
  struct Pages {
    std::size_t begin = 0;  // behind the header
    std::size_t end = 0;
  };
  Slab(const protocol::SlabHeader& header, protocol::UniqueFd read_only_fd, protocol::MappedSegment segment, Charge charge,
       Charge record);
  [[nodiscard]] Pages PagesOf(std::uint32_t slot, std::uint64_t bytes) const noexcept;
  [[nodiscard]] Pages HeldPagesOf(std::uint32_t slot) const noexcept;
  std::size_t LetGo(Pages pages);
  std::optional<std::uint32_t> FindFrom(std::uint32_t& lowest, State state) noexcept;
  void Punch(Pages pages);

  const protocol::SlabHeader header_;
  protocol::UniqueFd read_only_fd_;
  std::optional<protocol::MappedSegment> segment_;  // empty once retired
  Charge charge_;                                   // of pages
  const Charge record_;
  std::vector<State> states_;                     // of slots
  std::vector<std::uint32_t> missing_pages_;      // of slots: the last ones, which a slot that was cut down does not lie in
  std::vector<std::uint16_t> holders_;            // of pages: used and warm slots that lie in them
  std::vector<bool> populating_;                  // of slots
  std::unique_ptr<std::atomic<bool>[]> present_;  // of slots: populated since they were cold
  std::uint32_t used_ = 0;
  std::uint32_t warm_ = 0;
  std::uint32_t populating_slots_ = 0;
  std::uint32_t lowest_warm_ = 0;  // no warm slot lies below
  std::uint32_t lowest_cold_ = 0;
  bool shared_ = false;
  bool retiring_ = false;
};

}  // namespace kvant::daemon
