// Look-ups of bytes in tables of more rows than one instruction takes. No include guard by design: see Highway's
// foreach_target.
#if defined(KVANT_KERNELS_BYTES_LOOK_UP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_BYTES_LOOK_UP_INL_H_
#undef KVANT_KERNELS_BYTES_LOOK_UP_INL_H_
#else
#define KVANT_KERNELS_BYTES_LOOK_UP_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// table[index] of kEntries bytes, a multiple of 16 and, from 64 on, of 64. Requires: every index is below kEntries.
template <std::size_t kEntries, class D8>
HWY_INLINE hn::Vec<D8> LookUpRows([[maybe_unused]] D8 d8, const std::uint8_t* HWY_RESTRICT table, hn::Vec<D8> index) {
#if HWY_TARGET == HWY_NEON
  if constexpr (kEntries >= 64 && sizeof(index) == 16) {
    auto found = vqtbl4q_u8(vld1q_u8_x4(table), index.raw);
    for (std::size_t row = 64; row < kEntries; row += 64) {
      found = vqtbx4q_u8(found, vld1q_u8_x4(table + row), vsubq_u8(index.raw, vdupq_n_u8(static_cast<std::uint8_t>(row))));
    }
    return hn::Vec<D8>{found};
  }
#endif
  auto found = hn::Zero(d8);
  const auto high = hn::Set(d8, 0x70u);
#pragma GCC unroll 16
  for (std::size_t row = 0; row < kEntries; row += 16) {
    // Indices of this row become 0..15 plus 0x70, others exceed 0x7F, for which the look-up gives 0.
    const auto within = hn::SaturatedAdd(hn::Xor(index, hn::Set(d8, static_cast<std::uint8_t>(row))), high);
    found = hn::Or(found, hn::TableLookupBytesOr0(hn::LoadDup128(d8, table + row), within));
  }
  return found;
}

#if HWY_TARGET == HWY_AVX3_DL
/// `look_up(vector of 64 indices)`, of as many indices as there are.
template <class D8, class LookUp>
HWY_INLINE hn::Vec<D8> In64Bytes(D8, hn::Vec<D8> index, const LookUp& look_up) {
  if constexpr (sizeof(index) == 64) {
    return {look_up(index.raw)};
  } else {
    return {_mm512_castsi512_si256(look_up(_mm512_castsi256_si512(index.raw)))};
  }
}

/// table[the lowest kBits bits of index], up to 7: other bits do not matter.
template <std::uint32_t kBits, class D8>
HWY_INLINE hn::Vec<D8> LookUpLowest(D8 d8, const std::uint8_t* HWY_RESTRICT table, hn::Vec<D8> index) {
  static_assert(kBits <= 7);
  return In64Bytes(d8, index, [&](__m512i i) HWY_ATTR {
    if constexpr (kBits <= 6) return _mm512_permutexvar_epi8(i, _mm512_load_si512(table));
    if constexpr (kBits == 7) return _mm512_permutex2var_epi8(_mm512_load_si512(table), i, _mm512_load_si512(table + 64));
  });
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
