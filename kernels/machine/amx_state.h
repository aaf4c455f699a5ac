// What this thread's tile registers are at, between amx.cc and the kernels.
#pragma once

namespace kvant::kernels {

struct TileState {
  int scopes = 0;      ///< TileScope objects alive
  bool ready = false;  ///< registers are set up as amx-inl.h says
};

extern constinit thread_local TileState tile_state;

}  // namespace kvant::kernels
