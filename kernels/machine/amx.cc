#include "kernels/machine/amx.h"

#include <atomic>
#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) && defined(__linux__)
#include <asm/prctl.h>
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "kernels/machine/amx_state.h"

namespace kvant::kernels {
namespace {

#if defined(__x86_64__) && defined(__linux__)
#ifndef ARCH_REQ_XCOMP_PERM
#define ARCH_REQ_XCOMP_PERM 0x1023
#endif

bool Granted() noexcept {
  constexpr unsigned kTile = 1u << 24, kInt8 = 1u << 25;  // of leaf 7, edx
  constexpr long kTileData = 18;                          // state component of the registers' contents
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & (kTile | kInt8)) != (kTile | kInt8)) return false;
  return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, kTileData) == 0;
}
#else
bool Granted() noexcept { return false; }
#endif

bool Wanted() noexcept {
  const char* choice = std::getenv("KVANT_AMX");
  return choice == nullptr || std::strcmp(choice, "0") != 0;
}

void Release() noexcept {
#if defined(__x86_64__)
  asm volatile("tilerelease");
#endif
}

std::atomic<bool> allowed = true;

}  // namespace

bool UsesTiles() noexcept {
  static const bool granted = Wanted() && Granted();
  return granted && allowed.load(std::memory_order_relaxed);
}

constinit thread_local TileState tile_state;

TileScope::TileScope() noexcept { ++tile_state.scopes; }

TileScope::~TileScope() {
  if (--tile_state.scopes > 0 || !tile_state.ready) return;
  Release();
  tile_state.ready = false;
}

void AllowTiles(bool allow) noexcept { allowed.store(allow, std::memory_order_relaxed); }

}  // namespace kvant::kernels
