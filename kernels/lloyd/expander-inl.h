// Lloyd codes to centroids. Up to 4 bits: with VBMI, vpermb looks 64 bytes up by the low six bits of each index, so whichever
// field lies within them needs neither mask nor shift; elsewhere two masks and a shift make nibbles for TableLookupBytes. No
// include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_LLOYD_EXPANDER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_LLOYD_EXPANDER_INL_H_
#undef KVANT_KERNELS_LLOYD_EXPANDER_INL_H_
#else
#define KVANT_KERNELS_LLOYD_EXPANDER_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/bytes/factors-inl.h"
#include "kernels/bytes/look_up-inl.h"
#include "kernels/lloyd/accumulate.h"
#include "kernels/lloyd/layout.h"
#include "kernels/lloyd/table.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Bits that cross from one byte to the next are for the caller to mask.
template <int kRight, class D8>
HWY_INLINE hn::Vec<D8> ShiftBytes(D8 d8, hn::Vec<D8> v) {
  const auto words = hn::BitCast(hn::Repartition<std::uint16_t, D8>(), v);
  if constexpr (kRight > 0) {
    return hn::BitCast(d8, hn::ShiftRight<kRight>(words));
  } else if constexpr (kRight < 0) {
    return hn::BitCast(d8, hn::ShiftLeft<-kRight>(words));
  } else {
    return v;
  }
}

/// Each bit from `yes` where that of `mask` is set, else from `no`. (IfVecThenElse takes whole bytes below AVX-512.)
template <class V>
HWY_INLINE V SelectBits(V mask, V yes, V no) {
#if HWY_ARCH_X86 && !HWY_CAP_GE512
  return hn::Or(hn::And(mask, yes), hn::AndNot(mask, no));
#else
  return hn::IfVecThenElse(mask, yes, no);
#endif
}

/// Tables of the fields within `kIndexBits` bits: six for vpermb, four for TableLookupBytes; with 3 bits, one of the low three.
template <class D8, std::uint32_t kBits>
struct LloydTables {
  static constexpr bool kSix = HWY_TARGET == HWY_AVX3_DL && hn::MaxLanes(D8()) == 64;
  static constexpr std::size_t kCount = kBits == 3 ? 1 : (kSix ? 6 : 4) / kBits;
  hn::Vec<D8> table[kCount];
};

/// Codes of 1 to 4 bits.
template <std::uint32_t kBits>
struct LloydExpander {
  static constexpr bool kWords = false;
  static constexpr std::size_t kFields = kBits == 3 ? 8 : 8 / kBits;
  static constexpr int kLargest = LloydLimit(kBits);

  const LloydTable& table;
  const std::uint8_t* codes;
  std::size_t tile_bytes;    ///< of a plane
  const std::uint8_t* tops;  ///< 3 bits: the plane of top bits, whose tiles hold eight fields; those of low bits hold four

  template <class D8>
  HWY_INLINE LloydTables<D8, kBits> Tables(D8 d8, std::uint8_t offset) const {
    LloydTables<D8, kBits> tables;
    for (std::size_t f = 0; f < LloydTables<D8, kBits>::kCount; ++f) {
      if constexpr (LloydTables<D8, kBits>::kSix) {
        tables.table[f] = hn::Load(d8, reinterpret_cast<const std::uint8_t*>(table.sixes[f].data()));
      } else {
        tables.table[f] = hn::LoadDup128(d8, reinterpret_cast<const std::uint8_t*>(table.nibbles[f].data()));
      }
      tables.table[f] = hn::Add(tables.table[f], hn::Set(d8, offset));
    }
    return tables;
  }

  template <std::size_t kField, class D8>
  HWY_INLINE hn::Vec<D8> Expand(D8 d8, const LloydTables<D8, kBits>& tables, std::size_t tile, std::size_t byte) const {
    if constexpr (kBits == 3) {
      const auto low = ShiftBytes<2 * (kField % 4)>(d8, hn::LoadU(d8, codes + (2 * tile + kField / 4) * tile_bytes + byte));
      const auto top = ShiftBytes<static_cast<int>(kField) - 2>(d8, hn::LoadU(d8, tops + tile * tile_bytes + byte));
      return LookUp3(d8, tables, low, top);
    } else {
      const auto v = hn::LoadU(d8, codes + tile * tile_bytes + byte);
      constexpr std::size_t kFirst = kField * kBits;  // its lowest bit
      if constexpr (LloydTables<D8, kBits>::kSix) {
        // Bits above the lowest six of an index do not matter to vpermb.
        if constexpr (kBits == 4) return LookUpSix(tables.table[0], ShiftBytes<static_cast<int>(kFirst)>(d8, v));
        if constexpr (kBits != 4 && kFirst + kBits <= 6) return LookUpSix(tables.table[kField], v);
        if constexpr (kBits != 4 && kFirst + kBits > 6) {
          return LookUpSix(tables.table[kField - 2 / kBits], ShiftBytes<2>(d8, v));
        }
      } else {
        const auto nibble = hn::And(ShiftBytes < kFirst < 4 ? 0 : 4 > (d8, v), hn::Set(d8, 0x0Fu));
        return hn::TableLookupBytes(tables.table[kFirst % 4 / kBits], nibble);
      }
    }
  }

 private:
#if HWY_TARGET == HWY_AVX3_DL
  template <class V>
  static HWY_INLINE V LookUpSix(V table, V index) {
    return V{_mm512_permutexvar_epi8(index.raw, table.raw)};
  }
#endif
  /// The two low bits from `low`, the third from `top`; other bits hold anything.
  template <class D8>
  static HWY_INLINE hn::Vec<D8> LookUp3(D8 d8, const LloydTables<D8, kBits>& tables, hn::Vec<D8> low, hn::Vec<D8> top) {
    if constexpr (LloydTables<D8, kBits>::kSix) {
      return LookUpSix(tables.table[0], hn::IfVecThenElse(hn::Set(d8, 0x03u), low, top));
    } else {
      const auto index = hn::Or(hn::And(low, hn::Set(d8, 0x03u)), hn::And(top, hn::Set(d8, 0x04u)));
      return hn::TableLookupBytes(tables.table[0], index);
    }
  }
};

/// What expanders to centroids of 12 bits have in common.
struct LloydWordExpander {
  static constexpr bool kWords = true;
  static constexpr int kOffset = 0;
  static constexpr int kWeightMax = LloydWeightMax(8);
  static constexpr std::size_t kWeightRun = kernels::kWeightRun;
  static constexpr bool kPlainBytes = false;

  const LloydTable& table;

  struct InMemory {};
  template <class D8>
  HWY_INLINE InMemory Tables(D8, std::uint8_t) const {
    return {};
  }

  /// Centroids of indices of kBits bits, the table's index_bits, in the lowest bits of bytes; the bits above do not matter.
  template <std::uint32_t kBits, class D8>
  HWY_INLINE Pairs<D8> LookUp(D8 d8, hn::Vec<D8> index) const {
    const std::uint8_t *low = table.low_bytes.data(), *high = table.high_bytes.data();
#if HWY_TARGET == HWY_AVX3_DL
    if constexpr (kBits <= 7) {
      return PairBytes(d8, LookUpLowest<kBits>(d8, low, index), LookUpLowest<kBits>(d8, high, index));
    } else {
      return PairBytes(d8, LookUpBytes(d8, low, index), LookUpBytes(d8, high, index));
    }
#else
    if constexpr (kBits < 8) {
      const auto masked = hn::And(index, hn::Set(d8, static_cast<std::uint8_t>((1u << kBits) - 1u)));
      return PairBytes(d8, LookUpRows<1u << kBits>(d8, low, masked), LookUpRows<1u << kBits>(d8, high, masked));
    } else {
      // Half of the rows: codes below 128 mirror those above.
      const hn::RebindToSigned<D8> di8;
      const auto below = hn::BitCast(d8, hn::BroadcastSignBit(hn::BitCast(di8, hn::Not(index))));
      const auto upper = hn::And(hn::Xor(index, below), hn::Set(d8, 0x7Fu));
      const auto pairs = PairBytes(d8, LookUpRows<128>(d8, low + 128, upper), LookUpRows<128>(d8, high + 128, upper));
      const Pairs<D8> sign = WidenSigned(d8, below);
      return {hn::Sub(hn::Xor(pairs.even, sign.even), sign.even), hn::Sub(hn::Xor(pairs.odd, sign.odd), sign.odd)};
    }
#endif
  }

 private:
  /// 16-bit numbers of their two bytes.
  template <class D8>
  static HWY_INLINE Pairs<D8> PairBytes(D8, hn::Vec<D8> low, hn::Vec<D8> high) {
    const PairTag<D8> d16;
    const hn::RebindToUnsigned<PairTag<D8>> du16;
    const auto low16 = hn::BitCast(du16, low), high16 = hn::BitCast(du16, high);
    const auto from_low = hn::Set(du16, 0x00FFu);
    return {hn::BitCast(d16, SelectBits(from_low, low16, hn::ShiftLeft<8>(high16))),
            hn::BitCast(d16, SelectBits(from_low, hn::ShiftRight<8>(low16), high16))};
  }
#if HWY_TARGET == HWY_AVX3_DL
  /// table[index] of 256 bytes. A masked look-up leaves the other half's indices for the second one.
  template <class D8>
  static HWY_INLINE hn::Vec<D8> LookUpBytes(D8 d8, const std::uint8_t* HWY_RESTRICT bytes, hn::Vec<D8> index) {
    return In64Bytes(d8, index, [&](__m512i i) HWY_ATTR {
      const __mmask64 upper = _mm512_movepi8_mask(i);
      const auto half = [bytes](__m512i at, __mmask64 where, std::size_t from) HWY_ATTR {
        return _mm512_mask2_permutex2var_epi8(_mm512_load_si512(bytes + from), at, where, _mm512_load_si512(bytes + from + 64));
      };
      return half(half(i, ~upper, 0), upper, 128);
    });
  }
#endif
};

/// Codes of 5 to 8 bits: planes joined in the lowest bits of a byte.
template <std::uint32_t kBits>
struct LloydWideExpander : LloydWordExpander {
  static constexpr std::uint32_t kPlanes = LloydPlaneCount(kBits);
  static constexpr std::size_t kFields = 8 / LloydPlaneAt(kBits, kPlanes - 1).bits;

  const std::uint8_t* planes[kMaxLloydPlanes];
  std::size_t tile_bytes;  ///< of every plane

  LloydWideExpander(const LloydTable& levels, const std::uint8_t* codes, std::size_t tile, std::size_t dim, std::size_t tokens)
      : LloydWordExpander{levels}, planes{}, tile_bytes(tile) {
    for (std::uint32_t p = 0; p < kPlanes; ++p) {
      planes[p] = codes;
      codes += LloydPlaneBytes(LloydPlaneAt(kBits, p).bits, dim, tokens);
    }
  }

  template <std::size_t kField, class D8>
  HWY_INLINE Pairs<D8> Expand(D8 d8, InMemory, std::size_t tile, std::size_t byte) const {
    auto code = Plane<0, kField>(d8, tile, byte);
    if constexpr (kPlanes > 1) code = Above<1>(d8, code, Plane<1, kField>(d8, tile, byte));
    if constexpr (kPlanes > 2) code = Above<2>(d8, code, Plane<2, kField>(d8, tile, byte));
    return this->template LookUp<kBits>(d8, code);
  }

 private:
  /// The lowest bit of a plane's share of the byte.
  template <std::uint32_t kPlane>
  static constexpr std::uint32_t kPlace = LloydPlaneAt(kBits, kPlane).shift;

  /// A field of a plane in its place, anything beside it.
  template <std::uint32_t kPlane, std::size_t kField, class D8>
  HWY_INLINE hn::Vec<D8> Plane(D8 d8, std::size_t tile, std::size_t byte) const {
    constexpr std::size_t kBitsOf = LloydPlaneAt(kBits, kPlane).bits, kFieldsOf = 8 / kBitsOf;
    const std::size_t at = kFields / kFieldsOf * tile + kField / kFieldsOf;  // its tiles have fewer fields
    const auto v = hn::LoadU(d8, planes[kPlane] + at * tile_bytes + byte);
    return ShiftBytes<static_cast<int>(kField % kFieldsOf * kBitsOf) - static_cast<int>(kPlace<kPlane>)>(d8, v);
  }
  template <std::uint32_t kPlane, class D8>
  static HWY_INLINE hn::Vec<D8> Above(D8 d8, hn::Vec<D8> low, hn::Vec<D8> high) {
    const auto from_low = hn::Set(d8, static_cast<std::uint8_t>((1u << kPlace<kPlane>)-1u));
    return SelectBits(from_low, low, high);
  }
};

/// `use(expander)` with that of the table's bits, for a block of one side.
template <class Use>
HWY_INLINE void WithLloydExpander(const LloydTable& table, LloydLayout layout, const std::byte* block, std::size_t dim,
                                  std::size_t tokens, const Use& use) {
  const auto* codes = reinterpret_cast<const std::uint8_t*>(block);
  const std::size_t tile_bytes = (layout == LloydLayout::kKeys ? 16 : 4) * dim;
  switch (table.bits) {
    case 1: return use(LloydExpander<1>{table, codes, tile_bytes, nullptr});
    case 2: return use(LloydExpander<2>{table, codes, tile_bytes, nullptr});
    case 3: return use(LloydExpander<3>{table, codes, tile_bytes, codes + LloydPlaneBytes(2, dim, tokens)});
    case 4: return use(LloydExpander<4>{table, codes, tile_bytes, nullptr});
    case 5: return use(LloydWideExpander<5>{table, codes, tile_bytes, dim, tokens});
    case 6: return use(LloydWideExpander<6>{table, codes, tile_bytes, dim, tokens});
    case 7: return use(LloydWideExpander<7>{table, codes, tile_bytes, dim, tokens});
    default: return use(LloydWideExpander<8>{table, codes, tile_bytes, dim, tokens});
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
