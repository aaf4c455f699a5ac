// Per-target integer arithmetic on Lloyd codes, shared by lloyd/score.cc and lloyd/accumulate.cc: codes -> centroids, and
// products of 4 centroids with 4 integers per 32-bit lane. Every sum is exact, so all targets agree bit for bit.
// Centroids of few bits stay bytes (kDotBytes); others are pairs of 16-bit numbers: dims 0 and 2 of each 4 in `even`, dims 1
// and 3 in `odd`. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_LLOYD_DOT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_LLOYD_DOT_INL_H_
#undef KVANT_KERNELS_LLOYD_DOT_INL_H_
#else
#define KVANT_KERNELS_LLOYD_DOT_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/lloyd/table.h"
#include "kernels/machine/prefetch.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// What multiplies bytes: VNNI unsigned with signed ones; NEON's dot products those of one kind; elsewhere vpmaddubsw unsigned
/// with signed ones, where two products fit 16 bits: with the small centroids of 1 and 2 bits.
inline constexpr bool kHasVnni = HWY_TARGET == HWY_AVX3_DL;
inline constexpr bool kHasNeonDot = HWY_TARGET == HWY_NEON;

template <std::uint32_t kBits>
inline constexpr bool kDotBytes = (kHasVnni || kHasNeonDot) ? kBits != 8 : kBits <= 2;

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

/// sum + 4 products per 32-bit lane of 16-bit numbers.
template <class D8>
HWY_INLINE hn::Vec<SumTag<D8>> Dot(D8, hn::Vec<SumTag<D8>> sum, const Pairs<D8>& a, const Pairs<D8>& b) {
  const SumTag<D8> di;
  auto even1 = hn::Zero(di), odd1 = hn::Zero(di);
  const auto even0 = hn::ReorderWidenMulAccumulate(di, a.even, b.even, hn::Zero(di), even1);
  const auto odd0 = hn::ReorderWidenMulAccumulate(di, a.odd, b.odd, hn::Zero(di), odd1);
  return hn::Add(sum, hn::Add(hn::RearrangeToOddPlusEven(even0, even1), hn::RearrangeToOddPlusEven(odd0, odd1)));
}

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

/// Bytes as factors of Dot; which pairs of kinds it takes depends on the target.
template <class D8>
struct SignedBytes {
  hn::Vec<D8> bytes;
};
template <class D8>
struct UnsignedBytes {
  hn::Vec<D8> bytes;
};

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
#endif

/// Sums of one query with as many tokens as logits (LloydQueryHead). The one order of operations that all ways of scoring
/// share.
template <class DF>
HWY_INLINE hn::Vec<DF> Logits(DF df, hn::Vec<hn::RebindToSigned<DF>> sums, hn::Vec<DF> token_scales, float scale, float bias) {
  const auto products = hn::Mul(hn::ConvertTo(df, sums), token_scales);
  return hn::Add(hn::Mul(products, hn::Set(df, scale)), hn::Set(df, bias));
}

/// Look-up tables of a codebook of up to 4 bits, one per field of a nibble; `offset` is added to every centroid.
template <class D8, std::uint32_t kBits>
struct NibbleTables {
  static constexpr std::size_t kCount = kBits == 3 ? 1 : 4 / kBits;
  hn::Vec<D8> table[kCount];

  HWY_INLINE NibbleTables(D8 d8, const LloydTable& codebook, std::uint8_t offset) {
    for (std::size_t i = 0; i < kCount; ++i) {
      const auto* entries = reinterpret_cast<const std::uint8_t*>(codebook.nibbles[i].data());
      table[i] = hn::Add(hn::LoadDup128(d8, entries), hn::Set(d8, offset));
    }
  }
};

/// Centroids of four fields in a row. Bits 4: both fields of `a`, then both of `b`. Bits 2: all fields of `a`. Bits 1: fields
/// 4 * kHalf.. of `a`. Bits 3: all fields of `a` (low bits), with bits 4 * kHalf.. of `b` (top bits). Without the second vector
/// of 4 bits (`kFields` = 2) the last two are left out.
template <std::uint32_t kBits, std::size_t kHalf, std::size_t kFields, class D8>
HWY_INLINE void LookUp(D8 d8, const NibbleTables<D8, kBits>& tables, hn::Vec<D8> a, hn::Vec<D8> b,
                       hn::Vec<D8>* HWY_RESTRICT centroids) {
  const hn::Repartition<std::uint16_t, D8> d16;
  const auto nibble = hn::Set(d8, 0x0Fu);
  const auto low = [&](hn::Vec<D8> v) HWY_ATTR { return hn::And(v, nibble); };
  const auto high = [&](hn::Vec<D8> v)
                        HWY_ATTR { return hn::And(hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, v))), nibble); };
  if constexpr (kBits == 4) {
    centroids[0] = hn::TableLookupBytes(tables.table[0], low(a));
    centroids[1] = hn::TableLookupBytes(tables.table[0], high(a));
    if constexpr (kFields == 4) {
      centroids[2] = hn::TableLookupBytes(tables.table[0], low(b));
      centroids[3] = hn::TableLookupBytes(tables.table[0], high(b));
    }
  } else if constexpr (kBits == 2) {
    const auto fields01 = low(a), fields23 = high(a);
    centroids[0] = hn::TableLookupBytes(tables.table[0], fields01);
    centroids[1] = hn::TableLookupBytes(tables.table[1], fields01);
    centroids[2] = hn::TableLookupBytes(tables.table[0], fields23);
    centroids[3] = hn::TableLookupBytes(tables.table[1], fields23);
  } else if constexpr (kBits == 1) {
    const auto fields = kHalf == 0 ? low(a) : high(a);
    for (std::size_t f = 0; f < 4; ++f) centroids[f] = hn::TableLookupBytes(tables.table[f], fields);
  } else {
    static_assert(kBits == 3);
    const auto two = hn::Set(d8, 0x03u), top = hn::Set(d8, 0x04u);
    const auto words = hn::BitCast(d16, a);
    const auto tops = hn::BitCast(d16, b);
    const hn::Vec<D8> lows[4] = {hn::And(a, two), hn::And(hn::BitCast(d8, hn::ShiftRight<2>(words)), two),
                                 hn::And(hn::BitCast(d8, hn::ShiftRight<4>(words)), two),
                                 hn::And(hn::BitCast(d8, hn::ShiftRight<6>(words)), two)};
    if constexpr (kHalf == 0) {
      centroids[0] = hn::Or(lows[0], hn::And(hn::BitCast(d8, hn::ShiftLeft<2>(tops)), top));
      centroids[1] = hn::Or(lows[1], hn::And(hn::BitCast(d8, hn::ShiftLeft<1>(tops)), top));
      centroids[2] = hn::Or(lows[2], hn::And(b, top));
      centroids[3] = hn::Or(lows[3], hn::And(hn::BitCast(d8, hn::ShiftRight<1>(tops)), top));
    } else {
      centroids[0] = hn::Or(lows[0], hn::And(hn::BitCast(d8, hn::ShiftRight<2>(tops)), top));
      centroids[1] = hn::Or(lows[1], hn::And(hn::BitCast(d8, hn::ShiftRight<3>(tops)), top));
      centroids[2] = hn::Or(lows[2], hn::And(hn::BitCast(d8, hn::ShiftRight<4>(tops)), top));
      centroids[3] = hn::Or(lows[3], hn::And(hn::BitCast(d8, hn::ShiftRight<5>(tops)), top));
    }
    for (std::size_t f = 0; f < 4; ++f) centroids[f] = hn::TableLookupBytes(tables.table[0], centroids[f]);
  }
}

/// Centroids of 8-bit codes.
template <class D8>
HWY_INLINE Pairs<D8> LookUpWords(D8 d8, const LloydTable& codebook, const std::uint8_t* HWY_RESTRICT codes) {
  const PairTag<D8> d16;
#if HWY_TARGET == HWY_AVX3_DL
  // Two look-ups in 128 bytes give a magnitude's two bytes; codes below 128 mirror those above.
  const hn::FixedTag<std::uint8_t, 64> full;
  const hn::RebindToUnsigned<PairTag<D8>> du16;
  using D8Vec = hn::Vec<D8>;
  const auto code = hn::LoadU(d8, codes);
  const auto below = hn::Lt(code, hn::Set(d8, 128u));
  const auto index = hn::IfThenElse(below, hn::Not(code), code);
  const auto look_up = [&](const std::uint8_t* table) HWY_ATTR {
    const auto low64 = hn::Load(full, table), high64 = hn::Load(full, table + 64);
    if constexpr (sizeof(D8Vec) == 64) {
      return hn::BitCast(du16, D8Vec{_mm512_permutex2var_epi8(low64.raw, index.raw, high64.raw)});
    } else {
      const auto wide = hn::ZeroExtendVector(full, index);
      return hn::BitCast(du16, D8Vec{_mm512_castsi512_si256(_mm512_permutex2var_epi8(low64.raw, wide.raw, high64.raw))});
    }
  };
  const auto low = look_up(codebook.low_bytes.data()), high = look_up(codebook.high_bytes.data());
  const auto even = hn::BitCast(d16, hn::Or(hn::And(low, hn::Set(du16, 0x00FFu)), hn::ShiftLeft<8>(high)));
  const auto odd = hn::BitCast(d16, hn::Or(hn::ShiftRight<8>(low), hn::And(high, hn::Set(du16, 0xFF00u))));
  const Pairs<D8> sign = WidenSigned(d8, hn::VecFromMask(d8, below));
  return {hn::Sub(hn::Xor(even, sign.even), sign.even), hn::Sub(hn::Xor(odd, sign.odd), sign.odd)};
#else
  alignas(64) std::int16_t even[32], odd[32];
  for (std::size_t i = 0; i < hn::Lanes(d8) / 2; ++i) {
    even[i] = codebook.centroids[codes[2 * i]];
    odd[i] = codebook.centroids[codes[2 * i + 1]];
  }
  return {hn::Load(d16, even), hn::Load(d16, odd)};
#endif
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
