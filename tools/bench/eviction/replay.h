// What a cache finds of a trace.
#pragma once

#include <cstddef>
#include <cstdint>

#include <kvant/eviction.h>

#include "tools/bench/eviction/traces.h"

namespace kvant::tools {

struct Found {
  std::uint64_t blocks = 0;  ///< that were asked for
  std::uint64_t hits = 0;    ///< of those, found: what lies behind the first miss of a prompt is none
  std::uint64_t coarse = 0;  ///< of those, with less than all their planes

  [[nodiscard]] double rate() const { return blocks == 0 ? 0 : static_cast<double>(hits) / static_cast<double>(blocks); }
};

/// Different blocks of a trace.
std::size_t Footprint(const Trace& trace);

/// The daemon's own index and policy, without the blocks' bytes. A prompt holds its blocks while it is served; what is behind
/// them goes when there is room for no more than `capacity` whole blocks. Blocks have kReplayPlanes planes, of which cold ones
/// keep `demote_to` before any goes (kvantd --demote-to); 0: all stay whole.
inline constexpr std::size_t kReplayPlanes = 4;
Found Replay(const Trace& trace, EvictionKind kind, std::size_t capacity, std::size_t demote_to = 0);

/// A cache that knows the future: the block whose next use is furthest away goes first (Belady's rule). A prompt that uses a
/// block uses all that it continues, so that never takes a block before what continues it.
Found ReplayOptimum(const Trace& trace, std::size_t capacity);

}  // namespace kvant::tools
