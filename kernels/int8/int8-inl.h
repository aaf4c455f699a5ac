// What the kernels of 8-bit codes share, per target: rounding, and products of codes with 16-bit integers. No include guard by
// design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_INT8_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_INT8_INL_H_
#undef KVANT_KERNELS_INT8_INL_H_
#else
#define KVANT_KERNELS_INT8_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Queries, or rows of weights, whose sums stay in registers together.
inline constexpr std::size_t kQueryTile = 4;

template <class DF>
HWY_INLINE hn::Vec<hn::RebindToSigned<DF>> RoundAndClamp(DF df, hn::Vec<DF> x, float limit) {
  return hn::NearestInt(hn::Max(hn::Min(x, hn::Set(df, limit)), hn::Set(df, -limit)));
}

template <class D32>
using Vec16 = hn::Vec<hn::Repartition<std::int16_t, D32>>;

/// acc + a[2i] * b[2i] + a[2i+1] * b[2i+1] per 32-bit lane i, modulo 2^32.
template <class D32>
HWY_INLINE hn::Vec<D32> MultiplyPairs(D32 d, Vec16<D32> a, Vec16<D32> b, hn::Vec<D32> acc) {
#if HWY_TARGET == HWY_AVX3_DL
  // g++ 12 copies and spills the accumulators of the intrinsic; a tied operand does not.
  if constexpr (sizeof(acc) == 64) {
    asm("vpdpwssd %2, %1, %0" : "+v"(acc.raw) : "v"(a.raw), "v"(b.raw));
    return acc;
  }
#endif
#if HWY_ARCH_X86
  auto unused = hn::Zero(d);
  return hn::ReorderWidenMulAccumulate(d, a, b, acc, unused);
#else
  auto odd = hn::Zero(d);
  const auto even = hn::ReorderWidenMulAccumulate(d, a, b, hn::Zero(d), odd);
  return hn::Add(acc, hn::RearrangeToOddPlusEven(even, odd));
#endif
}

/// The 1st and 3rd, and the 2nd and 4th byte of every 32-bit lane, as pairs of 16-bit numbers.
template <class D32>
HWY_INLINE void LoadCodes(D32 d, const std::byte* p, Vec16<D32>& even, Vec16<D32>& odd) {
  const hn::Repartition<std::int16_t, D32> d16;
  const hn::Repartition<std::uint16_t, D32> du16;
  const auto words = hn::BitCast(du16, hn::LoadU(d, reinterpret_cast<const std::int32_t*>(p)));
  even = hn::BitCast(d16, hn::And(words, hn::Set(du16, 0xff)));
  odd = hn::BitCast(d16, hn::ShiftRight<8>(words));
}

/// Two adjacent integers in every 32-bit lane.
template <class D32>
HWY_INLINE Vec16<D32> BroadcastPair(D32 d, const std::int16_t* two) {
  std::int32_t pair;
  std::memcpy(&pair, two, sizeof(pair));
  return hn::BitCast(hn::Repartition<std::int16_t, D32>(), hn::Set(d, pair));
}

/// Bytes that TableLookupBytes takes to make 0, 2, 1, 3 of every four 16-bit numbers.
template <class D16>
HWY_INLINE hn::Vec<D16> OrderOfFours(D16 d16) {
  const hn::Repartition<std::uint8_t, D16> d8;
  HWY_ALIGN static constexpr std::uint8_t kOrder[16] = {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15};
  return hn::BitCast(d16, hn::LoadDup128(d8, kOrder));
}

}  // namespace kvant::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
