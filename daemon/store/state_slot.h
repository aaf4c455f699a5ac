// An engine's private state at the end of a block: bytes that the daemon does not look into.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "daemon/memory/block_pool.h"
#include "daemon/memory/budget.h"
#include "protocol/segment_layout.h"

namespace kvant::daemon {

class Store;

/// Most bytes of one state. The recurrent layers of today's hybrid models take some tens of MiB per sequence.
inline constexpr std::uint64_t kMaxStateBytes = std::uint64_t{256} << 20;

/// A slot that holds a state, given back on destruction. Shared by the block that it belongs to, the sequences that hold it
/// until that block is sealed, and the job that fills it; each keeps the store alive. Loop thread, but for `data`.
class StateSlot {
 public:
  /// Made by Store.
  StateSlot(Store& store, SlotRef slot, std::uint64_t bytes, std::uint64_t generation, Charge charge);
  ~StateSlot();
  StateSlot(const StateSlot&) = delete;
  StateSlot& operator=(const StateSlot&) = delete;

  [[nodiscard]] SlotRef slot() const noexcept { return slot_; }
  [[nodiscard]] std::uint64_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] std::uint64_t generation() const noexcept { return generation_; }
  [[nodiscard]] const std::shared_ptr<Slab>& slab() const noexcept { return slab_; }

 private:
  Store& store_;
  const std::shared_ptr<Slab> slab_;
  const SlotRef slot_;
  const std::uint64_t bytes_;
  const std::uint64_t generation_;
  const Charge charge_;
};

}  // namespace kvant::daemon
