// Trellis codes to levels: the first bits of all fields of a byte meet those of the bytes one, two and three steps back in a
// few logical operations; then each field's level is one look-up. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_TRELLIS_EXPANDER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_TRELLIS_EXPANDER_INL_H_
#undef KVANT_KERNELS_TRELLIS_EXPANDER_INL_H_
#else
#define KVANT_KERNELS_TRELLIS_EXPANDER_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/lloyd/expander-inl.h"
#include "kernels/trellis/table.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Bytes of a tile and those that come kBack steps before them on the path. kInside: the step does not leave the front of the
/// tile.
template <bool kInside>
struct KeyTrail {
  using Inside = KeyTrail<true>;
  std::size_t tile_bytes;

  /// A step is a vector; before the first one comes the last, a byte further back in each lane.
  template <std::size_t kBack, class D8>
  HWY_INLINE hn::Vec<D8> Before(D8 d8, const std::uint8_t* HWY_RESTRICT tile, std::size_t byte) const {
    if (kInside || byte >= 64 * kBack) return hn::LoadU(d8, tile + byte - 64 * kBack);
    const hn::Repartition<std::uint32_t, D8> d32;
    return hn::BitCast(d8, hn::RotateRight<24>(hn::BitCast(d32, hn::LoadU(d8, tile + tile_bytes + byte - 64 * kBack))));
  }
};

template <bool kInside>
struct ValueTrail {
  using Inside = ValueTrail<true>;
  std::size_t tile_bytes;

  /// A step is a lane; before the first lane comes the tile's last.
  template <std::size_t kBack, class D8>
  HWY_INLINE hn::Vec<D8> Before(D8 d8, const std::uint8_t* HWY_RESTRICT tile, std::size_t byte) const {
    if (kInside || byte != 0) return hn::LoadU(d8, tile + byte - 4 * kBack);
    constexpr std::size_t kShift = 16 - 4 * kBack;
    const auto here = hn::LoadU(d8, tile);
#if HWY_ARCH_X86 && HWY_CAP_GE512
    if constexpr (sizeof(here) == 64) {
      const auto end = hn::LoadU(d8, tile + tile_bytes - 64);
      return hn::Vec<D8>{_mm512_alignr_epi32(here.raw, end.raw, 16 - kBack)};
    }
#endif
    if constexpr (sizeof(here) == 16) {
      return hn::CombineShiftRightBytes<kShift>(d8, here, hn::LoadU(d8, tile + tile_bytes - 16));
    } else if constexpr (sizeof(here) == 32) {
      const hn::Half<D8> half;
      const auto blocks = hn::Combine(d8, hn::LoadU(half, tile), hn::LoadU(half, tile + tile_bytes - 16));
      return hn::CombineShiftRightBytes<kShift>(d8, here, blocks);
    }
    return here;
  }
};

template <class D8>
struct TrellisTables {
  hn::Vec<D8> table[2];
};

/// Codes of 1 to 4 bits. Trail: KeyTrail or ValueTrail.
template <std::uint32_t kBits, class Trail>
struct TrellisExpander {
  static constexpr bool kWords = false;
  static constexpr std::size_t kFields = kBits == 3 ? 8 : 8 / kBits;
  static constexpr int kLargest = kTrellisLargest;
  static constexpr std::size_t kStepsBack = kTrellisMemory;

  const TrellisTable& table;
  const std::uint8_t* codes;
  Trail trail;
  const std::uint8_t* tops;  ///< 3 bits: the plane of top bits, whose tiles hold eight fields; those of low bits hold four

  HWY_INLINE TrellisExpander<kBits, typename Trail::Inside> Inside() const { return {table, codes, {trail.tile_bytes}, tops}; }

  template <class D8>
  HWY_INLINE TrellisTables<D8> Tables(D8 d8, std::uint8_t offset) const {
    TrellisTables<D8> tables;
    for (std::size_t t = 0; t < 2; ++t) {
      const auto* from = reinterpret_cast<const std::uint8_t*>(table.look_up[t].data());
#if HWY_TARGET == HWY_AVX3_DL
      if constexpr (hn::MaxLanes(D8()) == 64) {
        tables.table[t] = hn::Add(hn::Load(d8, from), hn::Set(d8, offset));
        continue;
      }
#endif
      tables.table[t] = hn::Add(hn::LoadDup128(d8, from), hn::Set(d8, offset));
    }
    return tables;
  }

  template <std::size_t kField, class D8>
  HWY_INLINE hn::Vec<D8> Expand(D8 d8, const TrellisTables<D8>& tables, std::size_t tile, std::size_t byte) const {
    if constexpr (kBits == 1) {
      const auto pairs = Pairs1<kField % 2>(d8, At(d8, codes + tile * trail.tile_bytes, byte));
      return LookUp(d8, tables.table[kField / 2 % 2], ShiftBytes < kField < 4 ? 0 : 4 > (d8, pairs));
    } else if constexpr (kBits == 2) {
      const auto fours = Fours<kField % 2>(d8, At(d8, codes + tile * trail.tile_bytes, byte));
      return LookUp(d8, tables.table[kField % 2], ShiftBytes < kField < 2 ? 0 : 4 > (d8, fours));
    } else if constexpr (kBits == 3) {
      const auto fours = Fours<kField % 2>(d8, At(d8, codes + (2 * tile + kField / 4) * trail.tile_bytes, byte));
      constexpr int kTo = kField % 2 == 0 ? 3 : 0;  // where Fours leave a bit free
      const auto top = ShiftBytes<static_cast<int>(kField) - kTo>(d8, hn::LoadU(d8, tops + tile * trail.tile_bytes + byte));
      const auto low = ShiftBytes < kField % 4 < 2 ? 0 : 4 > (d8, fours);
      return LookUp(d8, tables.table[kField % 2], SelectBits(hn::Set(d8, static_cast<std::uint8_t>(1u << kTo)), top, low));
    } else {
      const auto first = At(d8, codes + tile * trail.tile_bytes, byte);
      const auto low = ShiftBytes<4 * kField>(d8, first.z1);
      const auto z0 = ShiftBytes < kField == 0 ? -4 : 0 > (d8, first.z0);
      return LookUp32(d8, tables, SelectBits(hn::Set(d8, 0x0Fu), low, z0));
    }
  }

 private:
  template <class V>
  struct FirstBits {
    V z1;  ///< the codes, z1 in place of each one's first bit
    V z0;  ///< in place of a first bit; beside it anything
  };

  template <class D8>
  HWY_INLINE auto At(D8 d8, const std::uint8_t* HWY_RESTRICT tile, std::size_t byte) const {
    const auto firsts = hn::Set(d8, kBits == 1 ? 0xFFu : kBits == 4 ? 0x11u : 0x55u);
    const auto parity = hn::Xor(trail.template Before<1>(d8, tile, byte), trail.template Before<3>(d8, tile, byte));
    const auto z1 = hn::Xor(hn::LoadU(d8, tile + byte), hn::And(parity, firsts));
    return FirstBits<hn::Vec<D8>>{z1, trail.template Before<2>(d8, tile, byte)};
  }

  /// 1 bit: z1 and above it z0 of the fields 0, 2, 4 and 6, or of 1, 3, 5 and 7.
  template <bool kOdd, class D8>
  static HWY_INLINE hn::Vec<D8> Pairs1(D8 d8, const FirstBits<hn::Vec<D8>>& first) {
    return SelectBits(hn::Set(d8, 0x55u), ShiftBytes < kOdd ? 1 : 0 > (d8, first.z1),
                      ShiftBytes < kOdd ? 0 : -1 > (d8, first.z0));
  }

  /// 2 bits: of fields 0 and 2, in either half of the byte, z1, w and z0, and a bit of anything; of fields 1 and 3 a bit of
  /// anything, z0, z1 and w.
  template <bool kOdd, class D8>
  static HWY_INLINE hn::Vec<D8> Fours(D8 d8, const FirstBits<hn::Vec<D8>>& first) {
    return SelectBits(hn::Set(d8, kOdd ? 0xCCu : 0x33u), first.z1, ShiftBytes < kOdd ? 1 : -2 > (d8, first.z0));
  }

  /// By the low four bits; those above them do not matter.
  template <class D8>
  static HWY_INLINE hn::Vec<D8> LookUp(D8 d8, hn::Vec<D8> levels, hn::Vec<D8> index) {
#if HWY_TARGET == HWY_AVX3_DL
    if constexpr (sizeof(index) == 64) return hn::Vec<D8>{_mm512_permutexvar_epi8(index.raw, levels.raw)};
#endif
    return hn::TableLookupBytes(levels, hn::And(index, hn::Set(d8, 0x0Fu)));
  }

  /// By the low five bits.
  template <class D8>
  static HWY_INLINE hn::Vec<D8> LookUp32(D8 d8, const TrellisTables<D8>& tables, hn::Vec<D8> index) {
#if HWY_TARGET == HWY_AVX3_DL
    if constexpr (sizeof(index) == 64) return hn::Vec<D8>{_mm512_permutexvar_epi8(index.raw, tables.table[0].raw)};
#endif
    const auto second = hn::TestBit(index, hn::Set(d8, 0x10u));
    return hn::IfThenElse(second, LookUp(d8, tables.table[1], index), LookUp(d8, tables.table[0], index));
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
