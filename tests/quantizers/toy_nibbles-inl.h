// All that a fast path costs a code of 4-bit integers: its expander. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_TESTS_TOY_NIBBLES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_TESTS_TOY_NIBBLES_INL_H_
#undef KVANT_TESTS_TOY_NIBBLES_INL_H_
#else
#define KVANT_TESTS_TOY_NIBBLES_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::quantizers::test::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// A nibble n stands for n - 8. The low nibbles of a tile are its first field, the high ones its second.
struct NibbleExpander {
  static constexpr bool kWords = false;
  static constexpr std::size_t kFields = 2;
  static constexpr int kLargest = 8;

  const std::uint8_t* codes;
  std::size_t tile_bytes;

  template <class D8>
  HWY_INLINE hn::Vec<D8> Tables(D8 d8, std::uint8_t offset) const {
    return hn::Set(d8, static_cast<std::uint8_t>(offset - 8));
  }

  template <std::size_t kField, class D8>
  HWY_INLINE hn::Vec<D8> Expand(D8 d8, hn::Vec<D8> shift, std::size_t tile, std::size_t byte) const {
    const hn::Repartition<std::uint16_t, D8> d16;
    const auto both = hn::LoadU(d8, codes + tile * tile_bytes + byte);
    const auto low = kField == 0 ? both : hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, both)));
    return hn::Add(hn::And(low, hn::Set(d8, 0x0Fu)), shift);
  }
};

}  // namespace kvant::quantizers::test::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
