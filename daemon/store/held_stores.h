// Stores made anew from what a keeper held while no daemon was there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "daemon/store/core.h"
#include "daemon/store/store_table.h"
#include "protocol/memfd.h"

namespace kvant::daemon {

struct HeldFigures {
  std::size_t stores = 0;
  std::size_t blocks = 0;
  std::uint64_t bytes = 0;           ///< of those blocks' codes
  std::size_t dropped_parts = 0;     ///< as RestoredStore
  std::size_t dropped_segments = 0;  ///< of a store that cannot be restored, of none, or that hold nothing
};

/// Serves every store of which `segments` has a manifest: RestoreStore with its slabs. Then what operators had set holds again.
/// Tells Core::notify of stores that cannot be restored, and why, and releases from Core::keeper what is not used. Hostile
/// bytes do no harm; those of other users cannot come here. Loop thread, before any client is served.
HeldFigures RestoreHeld(Core& core, StoreTable& stores, std::vector<protocol::UniqueFd> segments);

}  // namespace kvant::daemon
