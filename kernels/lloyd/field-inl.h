// Centroids of Lloyd codes of up to 4 bits with VBMI: vpermb looks 64 bytes up by the low six bits of each index, so whichever
// field lies within them needs neither mask nor shift. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_LLOYD_FIELD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_LLOYD_FIELD_INL_H_
#undef KVANT_KERNELS_LLOYD_FIELD_INL_H_
#else
#define KVANT_KERNELS_LLOYD_FIELD_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/lloyd/table.h"

#if HWY_TARGET == HWY_AVX3_DL

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using ByteTag64 = hn::FixedTag<std::uint8_t, 64>;
using Bytes64 = hn::Vec<ByteTag64>;
using Sums16 = hn::Vec<hn::FixedTag<std::int32_t, 16>>;

/// sum + 4 products per lane of unsigned bytes with the same four signed bytes of memory. In assembly: g++ 12 would rather keep
/// broadcasts in registers and spill sums.
HWY_INLINE Sums16 DotBroadcast(Sums16 sum, Bytes64 unsigned_bytes, const std::uint32_t& signed_bytes) {
  asm("vpdpbusd %2%{1to16%},%1,%0" : "+v"(sum.raw) : "v"(unsigned_bytes.raw), "m"(signed_bytes));
  return sum;
}

/// Four bytes of memory in all lanes. In assembly, or g++ 12 would keep more of them in registers than there are.
HWY_INLINE Bytes64 BroadcastWord(const std::uint32_t& word) {
  Bytes64 v;
  asm volatile("vpbroadcastd %1,%0" : "=v"(v.raw) : "m"(word));
  return v;
}

/// Tables of the fields within six bits; `offset` is added to every centroid.
template <std::uint32_t kBits>
struct FieldTables {
  static constexpr std::size_t kCount = kBits == 3 ? 1 : kBits == 4 ? 1 : 6 / kBits;
  Bytes64 table[kCount];

  HWY_INLINE FieldTables(const LloydTable& codebook, std::uint8_t offset) {
    const ByteTag64 d8;
    for (std::size_t f = 0; f < kCount; ++f) {
      const auto* entries = reinterpret_cast<const std::uint8_t*>(codebook.sixes[f].data());
      table[f] = hn::Add(hn::Load(d8, entries), hn::Set(d8, offset));
    }
  }
};

template <int kRight>
HWY_INLINE Bytes64 ShiftPairs(Bytes64 v) {
  const hn::FixedTag<std::uint16_t, 32> d16;
  const auto words = hn::BitCast(d16, v);
  if constexpr (kRight > 0) {
    return hn::BitCast(ByteTag64(), hn::ShiftRight<kRight>(words));
  } else if constexpr (kRight < 0) {
    return hn::BitCast(ByteTag64(), hn::ShiftLeft<-kRight>(words));
  } else {
    return v;
  }
}

/// Centroids of field kField of `codes`. 3 bits: `codes` is of the plane of low bits (its field kField % 4), `tops` of the
/// plane of top bits; otherwise `tops` is not used.
template <std::uint32_t kBits, std::size_t kField>
HWY_INLINE Bytes64 Field(const FieldTables<kBits>& tables, Bytes64 codes, Bytes64 tops) {
  const auto look_up = [](Bytes64 table, Bytes64 index)
                           HWY_ATTR { return Bytes64{_mm512_permutexvar_epi8(index.raw, table.raw)}; };
  if constexpr (kBits == 3) {
    // Bits above the lowest three of an index do not matter to the table.
    const Bytes64 low = ShiftPairs<static_cast<int>(2 * (kField % 4))>(codes);
    const Bytes64 high = ShiftPairs<static_cast<int>(kField) - 2>(tops);
    return look_up(tables.table[0], hn::IfVecThenElse(hn::Set(ByteTag64(), 0x03u), low, high));
  } else {
    constexpr std::size_t kFirst = kField * kBits;  // its lowest bit
    if constexpr (kBits == 4) return look_up(tables.table[0], ShiftPairs<static_cast<int>(kFirst)>(codes));
    if constexpr (kBits != 4 && kFirst + kBits <= 6) return look_up(tables.table[kField], codes);
    if constexpr (kBits != 4 && kFirst + kBits > 6) {
      return look_up(tables.table[kField - 2 / kBits], ShiftPairs<2>(codes));
    }
  }
}

/// Centroids of kFields fields. 4 bits: both fields of `a`, then (kFields = 4) both of `b`. 1, 2 and 3 bits: fields kFirst.. of
/// `a`, with `b` the plane of top bits of 3 bits.
template <std::uint32_t kBits, std::size_t kFirst, std::size_t kFields>
HWY_INLINE void Fields(const FieldTables<kBits>& tables, Bytes64 a, Bytes64 b, Bytes64* HWY_RESTRICT centroids) {
  centroids[0] = Field<kBits, kFirst>(tables, a, b);
  centroids[1] = Field<kBits, kFirst + 1>(tables, a, b);
  if constexpr (kFields == 4 && kBits == 4) {
    centroids[2] = Field<kBits, 0>(tables, b, b);
    centroids[3] = Field<kBits, 1>(tables, b, b);
  } else if constexpr (kFields == 4) {
    centroids[2] = Field<kBits, kFirst + 2>(tables, a, b);
    centroids[3] = Field<kBits, kFirst + 3>(tables, a, b);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // HWY_AVX3_DL
#endif  // toggle
