// What /proc tells of another process's shared memory.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

namespace kvant::testing {

/// Descriptors of a process, and its memory files among them.
struct HeldMemory {
  std::size_t descriptors = 0;
  std::size_t segments = 0;  ///< manifests, slabs and arenas
  std::uint64_t bytes = 0;   ///< that exist of these
  static HeldMemory Of(pid_t process);
};

/// Changes a byte of the payload of the codes at `first_position` of some sequence, in a slab that `process` holds. False if
/// there is no such block.
bool DamageABlock(pid_t process, std::uint64_t first_position);

/// False for one that has ended, reaped or not.
bool IsRunning(pid_t process);

}  // namespace kvant::testing
