// Lanes of a warp where they are threads (lanes.h).
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include <kvant/tensor.h>

namespace kvant::kernels::cuda {
inline namespace KVANT_LANES {
template <class T>
using Lanes = T;

KVANT_WARP int LaneIndex() { return static_cast<int>(threadIdx.x) % kWarpLanes; }

template <class T>
KVANT_WARP T Select(bool condition, T yes, T no) {
  return condition ? yes : no;
}
KVANT_WARP float AsFloat(std::uint32_t bits) { return __uint_as_float(bits); }
KVANT_WARP std::uint32_t AsBits(float x) { return __float_as_uint(x); }
template <class To, class T>
KVANT_WARP To Convert(T x) {
  return static_cast<To>(x);
}
/// To nearest, ties to even.
KVANT_WARP std::int32_t ToInt(float x) { return __float2int_rn(x); }
KVANT_WARP float Fma(float a, float b, float c) { return fmaf(a, b, c); }
KVANT_WARP float Largest(float a, float b) { return fmaxf(a, b); }
KVANT_WARP float Magnitude(float x) { return fabsf(x); }
KVANT_WARP std::int32_t Magnitude(std::int32_t x) { return abs(x); }
KVANT_WARP std::int32_t Largest(std::int32_t a, std::int32_t b) { return max(a, b); }
KVANT_WARP float Root(float x) { return __fsqrt_rn(x); }
/// 2^x, to 2 units in the last place; 0 for minus infinity.
KVANT_WARP float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// a / b to 2 units in the last place.
KVANT_WARP float Quotient(float a, float b) { return __fdividef(a, b); }
/// A f16's value.
KVANT_WARP float HalfToFloat(std::uint32_t bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(static_cast<std::uint16_t>(bits)));
  return x;
}
KVANT_WARP float Log(float x) { return logf(x); }

/// Of numbers that are the same for all lanes.
KVANT_WARP float Uniform(float x) { return x; }
KVANT_WARP float LargerOf(float a, float b) { return fmaxf(a, b); }
KVANT_WARP float ExpOf(float x) { return Exp2(x * 1.4426950408889634f); }

/// The bytes of (a, b) that the four low nibbles of `choice` name.
KVANT_WARP std::uint32_t Permute(std::uint32_t a, std::uint32_t b, std::uint32_t choice) { return __byte_perm(a, b, choice); }
template <class T>
KVANT_WARP T ShuffleXor(T x, int mask) {
  return __shfl_xor_sync(~0u, x, mask);
}
template <class T>
KVANT_WARP T FromLane(T x, int lane) {
  return __shfl_sync(~0u, x, lane);
}
KVANT_WARP bool Any(bool x) { return __any_sync(~0u, x) != 0; }
KVANT_WARP void SyncWarp() { __syncwarp(); }

template <class T>
KVANT_WARP T Get(const T* array, int index) {
  return array[index];
}
template <class T>
KVANT_WARP void Put(T* array, int index, T value) {
  array[index] = value;
}
template <class T>
KVANT_WARP void PutIf(bool condition, T* array, int index, T value) {
  if (condition) array[index] = value;
}
/// For memory that other thread blocks write meanwhile: past the first cache.
KVANT_WARP float GetShared(const float* array, int index) { return __ldcg(array + index); }
KVANT_WARP void PutShared(float* array, int index, float value) { __stcg(array + index, value); }
/// kCount adjacent ones from a multiple of kCount on: 2, or a multiple of 4.
template <int kCount>
KVANT_WARP void GetSharedRun(const float* array, int index, float (&run)[kCount]) {
  if constexpr (kCount == 2) {
    const float2 v = __ldcg(reinterpret_cast<const float2*>(array + index));
    run[0] = v.x, run[1] = v.y;
  } else {
    KVANT_UNROLL
    for (int i = 0; i < kCount; i += 4) {
      const float4 v = __ldcg(reinterpret_cast<const float4*>(array + index + i));
      run[i] = v.x, run[i + 1] = v.y, run[i + 2] = v.z, run[i + 3] = v.w;
    }
  }
}
template <int kCount>
KVANT_WARP void PutSharedRun(float* array, int index, const float (&run)[kCount]) {
  if constexpr (kCount == 2) {
    __stcg(reinterpret_cast<float2*>(array + index), make_float2(run[0], run[1]));
  } else {
    KVANT_UNROLL
    for (int i = 0; i < kCount; i += 4) {
      __stcg(reinterpret_cast<float4*>(array + index + i), make_float4(run[i], run[i + 1], run[i + 2], run[i + 3]));
    }
  }
}

/// Words of each lane: what one load brings.
struct Quad {
  Lanes<std::uint32_t> word[4];
};
struct Pair {
  Lanes<std::uint32_t> word[2];
};

/// 16, 8 or 4 bytes at `base + offset`, aligned to their size, in memory that nobody writes meanwhile.
KVANT_WARP Quad Load16(const std::uint8_t* base, int offset) {
  Quad v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3},[%4];"
               : "=r"(v.word[0]), "=r"(v.word[1]), "=r"(v.word[2]), "=r"(v.word[3])
               : "l"(base + offset));
  return v;
}
KVANT_WARP Pair Load8(const std::uint8_t* base, int offset) {
  Pair v;
  asm volatile("ld.global.nc.v2.u32 {%0,%1},[%2];" : "=r"(v.word[0]), "=r"(v.word[1]) : "l"(base + offset));
  return v;
}
KVANT_WARP std::uint32_t Load4(const std::uint8_t* base, int offset) {
  return __ldg(reinterpret_cast<const std::uint32_t*>(base + offset));
}

/// The same from a warp's own or a thread block's memory.
KVANT_WARP Quad GetQuad(const std::uint8_t* base, int offset) {
  const uint4 v = *reinterpret_cast<const uint4*>(base + offset);
  return {{v.x, v.y, v.z, v.w}};
}
KVANT_WARP Pair GetPair(const std::uint8_t* base, int offset) {
  const uint2 v = *reinterpret_cast<const uint2*>(base + offset);
  return {{v.x, v.y}};
}

/// Number `index` of an array of that type.
KVANT_WARP float LoadElement(const void* array, ElementType type, std::int64_t index) {
  if (type == ElementType::kF32) return __ldg(static_cast<const float*>(array) + index);
  const std::uint32_t bits = __ldg(static_cast<const std::uint16_t*>(array) + index);
  return type == ElementType::kF16 ? HalfToFloat(bits) : __uint_as_float(bits << 16);
}
KVANT_WARP void StoreElement(void* array, ElementType type, std::int64_t index, float value) {
  if (type == ElementType::kF32) {
    static_cast<float*>(array)[index] = value;
  } else if (type == ElementType::kF16) {
    static_cast<__half*>(array)[index] = __float2half_rn(value);
  } else {
    static_cast<__nv_bfloat16*>(array)[index] = __float2bfloat16_rn(value);
  }
}

/// Sums of a product of a 16 x 32 matrix of signed bytes A and a 32 x 8 matrix of bytes B: PTX's mma.m16n8k32. Lane 4 g + t
/// has of A rows g (words 0, 2) and g + 8 (1, 3), columns 4 t.. (0, 1) and 16 + 4 t.. (2, 3); of B column g, rows 4 t.. and
/// 16 + 4 t..; of the sums rows g (0, 1) and g + 8 (2, 3), columns 2 t and 2 t + 1.
using Sums = Lanes<std::int32_t>[4];

KVANT_WARP void MultiplySigned(Sums& c, const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
KVANT_WARP void MultiplyUnsigned(Sums& c, const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.u8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace KVANT_LANES
}  // namespace kvant::kernels::cuda
