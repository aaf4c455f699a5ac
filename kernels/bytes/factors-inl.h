// Products of numbers of codes with numbers of queries and with weights, four of them per 32-bit lane. Every sum is exact, so
// all targets agree bit for bit. Factors are bytes where the target multiplies bytes exactly; others are pairs of 16-bit
// numbers: numbers 0 and 2 of each four in `even`, 1 and 3 in `odd`. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_BYTES_FACTORS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_BYTES_FACTORS_INL_H_
#undef KVANT_KERNELS_BYTES_FACTORS_INL_H_
#else
#define KVANT_KERNELS_BYTES_FACTORS_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// What multiplies bytes: VNNI unsigned with signed ones; NEON's dot products those of one kind; elsewhere vpmaddubsw unsigned
/// with signed ones, where two products fit 16 bits.
inline constexpr bool kHasVnni = HWY_TARGET == HWY_AVX3_DL;
inline constexpr bool kHasNeonDot = HWY_TARGET == HWY_NEON;
/// Whether the byte of one factor can take the other's sign in one instruction.
inline constexpr bool kHasByteSigns = HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3;

/// Bytes of codes that are worked on at once: at most 64.
using CodeTag = hn::CappedTag<std::uint8_t, 64>;

template <class D8>
using SumTag = hn::Repartition<std::int32_t, D8>;
template <class D8>
using PairTag = hn::Repartition<std::int16_t, D8>;

template <class D8>
struct Pairs {
  hn::Vec<PairTag<D8>> even, odd;
};
template <class D8>
struct SignedBytes {
  hn::Vec<D8> bytes;
};
template <class D8>
struct UnsignedBytes {
  hn::Vec<D8> bytes;
};
/// Four signed bytes of memory, the same for every lane.
struct SignedBytesInMemory {
  const std::uint32_t& word;
};

template <class D8>
HWY_INLINE Pairs<D8> WidenSigned(D8, hn::Vec<D8> bytes) {
  const PairTag<D8> d16;
  const auto words = hn::BitCast(d16, bytes);
  return {hn::ShiftRight<8>(hn::ShiftLeft<8>(words)), hn::ShiftRight<8>(words)};
}

template <class D8>
HWY_INLINE Pairs<D8> WidenUnsigned(D8, hn::Vec<D8> bytes) {
  const PairTag<D8> d16;
  const hn::RebindToUnsigned<PairTag<D8>> du16;
  const auto words = hn::BitCast(du16, bytes);
  return {hn::BitCast(d16, hn::And(words, hn::Set(du16, 0x00FFu))), hn::BitCast(d16, hn::ShiftRight<8>(words))};
}

/// Four numbers of memory in every lane.
template <class D8>
HWY_INLINE hn::Vec<D8> BroadcastBytes(D8 d8, const std::uint32_t& word) {
#if HWY_TARGET == HWY_AVX3_DL
  // In assembly, or g++ 12 would keep more of them in registers than there are.
  hn::Vec<D8> v;
  asm volatile("vpbroadcastd %1,%0" : "=v"(v.raw) : "m"(word));
  return v;
#else
  return hn::BitCast(d8, hn::Set(SumTag<D8>(), static_cast<std::int32_t>(word)));
#endif
}
/// Two words: numbers 0 and 2, then 1 and 3.
template <class D8>
HWY_INLINE Pairs<D8> BroadcastPairs(D8, const std::uint32_t* HWY_RESTRICT words) {
  const PairTag<D8> d16;
  const SumTag<D8> di;
  return {hn::BitCast(d16, hn::Set(di, static_cast<std::int32_t>(words[0]))),
          hn::BitCast(d16, hn::Set(di, static_cast<std::int32_t>(words[1])))};
}

/// Bytes that TableLookupBytes takes to make 0, 2, 1, 3 of every four 16-bit numbers.
template <class D16>
HWY_INLINE hn::Vec<D16> OrderOfFours(D16 d16) {
  const hn::Repartition<std::uint8_t, D16> d8;
  HWY_ALIGN static constexpr std::uint8_t kOrder[16] = {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15};
  return hn::BitCast(d16, hn::LoadDup128(d8, kOrder));
}

/// sum + 2 products per 32-bit lane, modulo 2^32.
template <class D8>
HWY_INLINE hn::Vec<SumTag<D8>> DotPair(D8, hn::Vec<SumTag<D8>> sum, hn::Vec<PairTag<D8>> a, hn::Vec<PairTag<D8>> b) {
  const SumTag<D8> di;
#if HWY_TARGET == HWY_AVX3_DL
  // g++ 12 copies and spills the sums of the intrinsic; a tied operand does not.
  if constexpr (sizeof(sum) == 64) {
    asm("vpdpwssd %2,%1,%0" : "+v"(sum.raw) : "v"(a.raw), "v"(b.raw));
    return sum;
  }
#endif
#if HWY_ARCH_X86
  auto unused = hn::Zero(di);
  return hn::ReorderWidenMulAccumulate(di, a, b, sum, unused);
#else
  auto odd = hn::Zero(di);
  const auto even = hn::ReorderWidenMulAccumulate(di, a, b, hn::Zero(di), odd);
  return hn::Add(sum, hn::RearrangeToOddPlusEven(even, odd));
#endif
}

/// sum + 4 products per 32-bit lane (also below). Which kinds of factors go together depends on the target.
template <class D8>
HWY_INLINE hn::Vec<SumTag<D8>> Dot(D8 d8, hn::Vec<SumTag<D8>> sum, const Pairs<D8>& a, const Pairs<D8>& b) {
  return DotPair(d8, DotPair(d8, sum, a.even, b.even), a.odd, b.odd);
}

#if HWY_TARGET == HWY_NEON
template <class D8>
HWY_INLINE hn::Vec<SumTag<D8>> Dot(D8, hn::Vec<SumTag<D8>> sum, SignedBytes<D8> a, SignedBytes<D8> b) {
  return hn::Vec<SumTag<D8>>{vdotq_s32(sum.raw, vreinterpretq_s8_u8(a.bytes.raw), vreinterpretq_s8_u8(b.bytes.raw))};
}
template <class D8>
HWY_INLINE hn::Vec<SumTag<D8>> Dot(D8, hn::Vec<SumTag<D8>> sum, UnsignedBytes<D8> a, UnsignedBytes<D8> b) {
  return hn::Vec<SumTag<D8>>{vreinterpretq_s32_u32(vdotq_u32(vreinterpretq_u32_s32(sum.raw), a.bytes.raw, b.bytes.raw))};
}
#elif HWY_TARGET == HWY_AVX3_DL
/// g++ 12 makes register copies and spilled sums of the intrinsic.
template <class D8>
HWY_INLINE hn::Vec<SumTag<D8>> Dot(D8, hn::Vec<SumTag<D8>> sum, UnsignedBytes<D8> a, SignedBytes<D8> b) {
  asm("vpdpbusd %2,%1,%0" : "+v"(sum.raw) : "v"(a.bytes.raw), "v"(b.bytes.raw));
  return sum;
}
/// In assembly: g++ 12 would rather keep broadcasts in registers and spill sums.
template <class D8>
HWY_INLINE hn::Vec<SumTag<D8>> Dot(D8, hn::Vec<SumTag<D8>> sum, UnsignedBytes<D8> a, SignedBytesInMemory b) {
  static_assert(sizeof(sum) == 64);
  asm("vpdpbusd %2%{1to16%},%1,%0" : "+v"(sum.raw) : "v"(a.bytes.raw), "m"(b.word));
  return sum;
}
#else
/// Requires: sums of two neighbouring products fit 16 bits, or they saturate.
template <class D8>
HWY_INLINE hn::Vec<SumTag<D8>> Dot(D8, hn::Vec<SumTag<D8>> sum, UnsignedBytes<D8> a, SignedBytes<D8> b) {
  const PairTag<D8> d16;
  hn::Vec<PairTag<D8>> pairs;
#if HWY_TARGET == HWY_AVX3
  if constexpr (sizeof(pairs) == 64) pairs.raw = _mm512_maddubs_epi16(a.bytes.raw, b.bytes.raw);
#endif
#if HWY_TARGET <= HWY_AVX2
  if constexpr (sizeof(pairs) == 32) pairs.raw = _mm256_maddubs_epi16(a.bytes.raw, b.bytes.raw);
#endif
  if constexpr (sizeof(pairs) == 16) pairs.raw = _mm_maddubs_epi16(a.bytes.raw, b.bytes.raw);
  auto unused = hn::Zero(SumTag<D8>());
  return hn::ReorderWidenMulAccumulate(SumTag<D8>(), pairs, hn::Set(d16, 1), sum, unused);
}
#if HWY_TARGET != HWY_AVX3
/// The products of a's magnitudes with b under a's signs. Requires: |a|, |b| <= 127, so that two of them fit 16 bits.
template <class D8>
HWY_INLINE hn::Vec<SumTag<D8>> Dot(D8 d8, hn::Vec<SumTag<D8>> sum, SignedBytes<D8> a, SignedBytes<D8> b) {
  const auto magnitudes = hn::BitCast(d8, hn::Abs(hn::BitCast(hn::RebindToSigned<D8>(), a.bytes)));
#if HWY_TARGET == HWY_AVX2
  const hn::Vec<D8> turned{_mm256_sign_epi8(b.bytes.raw, a.bytes.raw)};
#else
  const hn::Vec<D8> turned{_mm_sign_epi8(b.bytes.raw, a.bytes.raw)};
#endif
  return Dot(d8, sum, UnsignedBytes<D8>{magnitudes}, SignedBytes<D8>{turned});
}
#endif
#endif

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
