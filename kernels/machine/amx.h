// Whether products of bytes go through tiles (Intel's AMX, Sapphire Rapids and later).
#pragma once

namespace kvant::kernels {

/// The first call asks Linux to let this process use the tiles' state (arch_prctl(2), ARCH_REQ_XCOMP_PERM): all its threads,
/// from then on. Signal stacks (sigaltstack) must have room for 8 KiB more afterwards. False if the processor has none, if the
/// system refuses (an old kernel, a filter of system calls, a signal stack that is too small), or with KVANT_AMX=0 in the
/// environment.
[[nodiscard]] bool UsesTiles() noexcept;

/// Takes tiles out of use, or back into it where they can be used: results are the same bits. For tests and benchmarks; not
/// while another thread is in a kernel.
void AllowTiles(bool allow) noexcept;

/// While it lives, this thread's tile registers stay set up from one kernel to the next; that takes some 300 cycles. Once the
/// last one is gone they are released, so that the system need not save them.
class TileScope {
 public:
  TileScope() noexcept;
  ~TileScope();
  TileScope(const TileScope&) = delete;
  TileScope& operator=(const TileScope&) = delete;
};

}  // namespace kvant::kernels
