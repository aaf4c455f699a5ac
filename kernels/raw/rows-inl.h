// Loading any element type as floats, per target. Included by kernels inside foreach_target.
#if defined(KVANT_KERNELS_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_ROWS_INL_H_
#undef KVANT_KERNELS_ROWS_INL_H_
#else
#define KVANT_KERNELS_ROWS_INL_H_
#endif

#include <cstdint>

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE hn::Vec<D> LoadFloats(D d, const float* p) {
  return hn::LoadU(d, p);
}

// Highway 1.0.3's emulation on SSE4 turns infinities into 65536 and loses NaN, so targets without the instruction get their
// own.
template <class D>
HWY_INLINE hn::Vec<D> LoadFloats(D d, const hwy::float16_t* p) {
#if HWY_ARCH_X86 && HWY_TARGET >= HWY_SSE4
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<std::uint16_t, D> du16;
  const auto bits = hn::PromoteTo(du, hn::LoadU(du16, reinterpret_cast<const std::uint16_t*>(p)));
  const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(du, 0x8000u)));
  const auto magnitude = hn::And(bits, hn::Set(du, 0x7fffu));
  const auto shifted = hn::ShiftLeft<13>(magnitude);
  const auto normal = hn::Add(shifted, hn::Set(du, (127u - 15u) << 23));
  const auto special = hn::Or(shifted, hn::Set(du, 0x7f800000u));
  // 0.5 + m * 2^-24 has m in its low bits, so the subtraction is exact.
  const auto half = hn::Set(d, 0.5f);
  const auto subnormal = hn::BitCast(du, hn::Sub(hn::BitCast(d, hn::Or(magnitude, hn::BitCast(du, half))), half));
  const hn::RebindToSigned<D> di;
  const auto as_int = hn::BitCast(di, magnitude);
  const auto is_special = hn::RebindMask(du, hn::Gt(as_int, hn::Set(di, 0x7bff)));
  const auto is_subnormal = hn::RebindMask(du, hn::Lt(as_int, hn::Set(di, 0x400)));
  const auto value = hn::IfThenElse(is_subnormal, subnormal, hn::IfThenElse(is_special, special, normal));
  return hn::BitCast(d, hn::Or(value, sign));
#else
  const hn::Rebind<hwy::float16_t, D> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, p));
#endif
}

template <class D>
HWY_INLINE hn::Vec<D> LoadFloats(D d, const hwy::bfloat16_t* p) {
  const hn::Rebind<hwy::bfloat16_t, D> d16;
  return hn::PromoteTo(d, hn::LoadU(d16, p));
}

/// Loads 8 floats' worth into the low lanes, zeros above: the end of a row whose length is a multiple of 8.
template <class D, typename T>
HWY_INLINE hn::Vec<D> LoadFloatsTail(D d, const T* p) {
#if HWY_MAX_BYTES >= 64
  const hn::Half<D> half;
  return hn::ZeroExtendVector(d, LoadFloats(half, p));
#else
  return LoadFloats(d, p);
#endif
}

}  // namespace kvant::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif
