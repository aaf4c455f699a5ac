// A warp's 32 lanes as one value, so that a kernel's arithmetic is written once and runs in two places.
//
// Under nvcc Lanes<T> is T: each thread holds its own lane, and what lanes do together is an instruction. Under another
// compiler Lanes<T> is an array of 32 numbers, operators go over all of them, and the same source emulates the warp: the same
// integers and the same floats, but for Exp2, Quotient and Log. The two have an inline namespace each.
//
// How such code is written: what is the same for all lanes is a plain number, and only that decides branches; lanes choose by
// Select. Every operation rounds (no contraction); Fma rounds once.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define KVANT_LANES on_device
#define KVANT_WARP __device__ __forceinline__
#define KVANT_UNROLL _Pragma("unroll")
#define KVANT_ROLLED _Pragma("unroll 1")
#else
#define KVANT_LANES emulated
#define KVANT_WARP inline
#define KVANT_UNROLL
#define KVANT_ROLLED
#endif

namespace kvant::kernels::cuda {

inline constexpr int kWarpLanes = 32;

}  // namespace kvant::kernels::cuda

#ifdef __CUDACC__
#include "kernels/cuda/lanes_on_device.h"
#else
#include "kernels/cuda/lanes_emulated.h"
#endif
