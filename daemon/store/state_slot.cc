#include "daemon/store/state_slot.h"

#include <utility>

#include "daemon/store/store.h"

namespace kvant::daemon {

StateSlot::StateSlot(Store& store, SlotRef slot, std::uint64_t bytes, std::uint64_t generation, Charge charge)
    : store_(store),
      slab_(store.pool().slab(slot.slab)),
      slot_(slot),
      bytes_(bytes),
      generation_(generation),
      charge_(std::move(charge)) {
  store_.StateHeld(bytes_);
}

StateSlot::~StateSlot() {
  store_.pool().Free(slot_);
  store_.StateFreed(bytes_);
}

}  // namespace kvant::daemon
