// Codes of sub-vectors to the numbers of their words, one number of a word at a time (vector/layout.h: the order of look-ups).
// With VBMI two look-ups in 128 bytes and a blend; on NEON four in 64 bytes; elsewhere sixteen in 16 bytes, each of which gives
// 0 for codes of other rows. Half of these and a sign where the codebook is odd. No include guard by design: see Highway's
// foreach_target.
#if defined(KVANT_KERNELS_VECTOR_EXPANDER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_VECTOR_EXPANDER_INL_H_
#undef KVANT_KERNELS_VECTOR_EXPANDER_INL_H_
#else
#define KVANT_KERNELS_VECTOR_EXPANDER_INL_H_
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#include "kernels/bytes/factors-inl.h"
#include "kernels/bytes/look_up-inl.h"
#include "kernels/vector/codebook.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Byte 64 * (4 h + j) + i of a tile of numbers is number j of the word that byte 64 h + i of the tile of codes names.
/// kOdd: so is the codebook. kPadded: the last 64 bytes of a tile of codes are not all there; numbers beyond are those of word
/// 0.
template <bool kOdd, bool kPadded>
struct VectorExpander {
  static constexpr bool kWords = false;
  static constexpr std::size_t kFields = 1;
  static constexpr int kLargest = kVectorLargest;

  const VectorCodebook& codebook;
  const std::uint8_t* codes;
  std::size_t tile_bytes;

  template <class D8>
  HWY_INLINE hn::Vec<D8> Tables(D8 d8, std::uint8_t offset) const {
    return hn::Set(d8, offset);
  }

  template <std::size_t kField, class D8>
  HWY_INLINE hn::Vec<D8> Expand(D8 d8, hn::Vec<D8> offset, std::size_t tile, std::size_t byte) const {
    const auto* table = reinterpret_cast<const std::uint8_t*>(codebook.numbers[byte / 64 % 4].data());
    return hn::Add(LookUp(d8, table, Codes(d8, tile, byte / 256 * 64 + byte % 64)), offset);
  }

 private:
  template <class D8>
  HWY_INLINE hn::Vec<D8> Codes(D8 d8, std::size_t tile, std::size_t at) const {
    const std::uint8_t* from = codes + tile * tile_bytes + at;
    if constexpr (kPadded) {
      const std::size_t n = hn::Lanes(d8);
      const std::size_t there = at < tile_bytes ? tile_bytes - at : 0;
      if (there < n) {
#if HWY_TARGET == HWY_AVX3_DL
        if constexpr (hn::MaxLanes(D8()) == 64) {
          return hn::Vec<D8>{_mm512_maskz_loadu_epi8((std::uint64_t{1} << there) - 1, from)};
        }
#endif
        HWY_ALIGN std::uint8_t few[64] = {};
        std::memcpy(few, from, there);
        return hn::Load(d8, few);
      }
    }
    return hn::LoadU(d8, from);
  }

  /// The numbers of words, by bits 0 to 6 of codes from `table`, bit 7 being the sign of an odd codebook.
  template <class D8>
  static HWY_INLINE hn::Vec<D8> LookUp(D8 d8, const std::uint8_t* HWY_RESTRICT table, hn::Vec<D8> code) {
#if HWY_TARGET == HWY_AVX3_DL
    if constexpr (hn::MaxLanes(D8()) == 64) {
      const auto look_up = [&](const std::uint8_t* half) HWY_ATTR {
        return _mm512_permutex2var_epi8(hn::Load(d8, half).raw, code.raw, hn::Load(d8, half + 64).raw);
      };
      const auto low = look_up(table);
      const __mmask64 top = _mm512_movepi8_mask(code.raw);
      if constexpr (kOdd) return hn::Vec<D8>{_mm512_mask_sub_epi8(low, top, _mm512_setzero_si512(), low)};
      return hn::Vec<D8>{_mm512_mask_blend_epi8(top, low, look_up(table + 128))};
    }
#endif
    const hn::RebindToSigned<D8> di8;
    const auto signed_code = hn::BitCast(di8, code);
    const auto index = kOdd ? hn::And(code, hn::Set(d8, 0x7Fu)) : code;
    const auto found = hn::BitCast(di8, LookUpRows < kOdd ? kVectorWords / 2 : kVectorWords > (d8, table, index));
    if constexpr (!kOdd) return hn::BitCast(d8, found);
    const auto sign = hn::BroadcastSignBit(signed_code);
    return hn::BitCast(d8, hn::Sub(hn::Xor(found, sign), sign));
  }
};

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
