// Per-target form of ufloat16.h. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_UFLOAT16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_UFLOAT16_INL_H_
#undef KVANT_KERNELS_UFLOAT16_INL_H_
#else
#define KVANT_KERNELS_UFLOAT16_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"
#include "kernels/ufloat16.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// As many numbers as `d` has lanes, exact.
template <class D>
HWY_INLINE hn::Vec<D> LoadUfloat16(D d, const std::uint16_t* HWY_RESTRICT from) {
  const hn::Rebind<std::uint16_t, D> d16;
  const hn::RebindToUnsigned<D> d32;
  return hn::Mul(hn::BitCast(d, hn::ShiftLeft<13>(hn::PromoteTo(d32, hn::LoadU(d16, from)))), hn::Set(d, kTwoTo96));
}

/// FloatToUfloat16 of each lane, in 32 bits.
template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> ToUfloat16(D d, hn::Vec<D> v) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, hn::Mul(v, hn::Set(d, kTwoToMinus96)));
  const auto odd = hn::And(hn::ShiftRight<13>(bits), hn::Set(du, 1u));
  return hn::ShiftRight<13>(hn::Add(hn::Add(bits, hn::Set(du, 0xFFFu)), odd));
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
