// The step and centre of an affine group as floats. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_AFFINE_GROUPS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_AFFINE_GROUPS_INL_H_
#undef KVANT_KERNELS_AFFINE_GROUPS_INL_H_
#else
#define KVANT_KERNELS_AFFINE_GROUPS_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/raw/rows-inl.h"
#include "kernels/ufloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Lanes of affine sums that lie in one vector; kAffineLanes is a multiple.
using AffineTag = hn::CappedTag<float, 16>;

/// zero + step * half of `count` lines (a multiple of 8), and their steps unless `to_steps` is null.
HWY_INLINE void LoadGroup(const std::byte* steps, const std::byte* zeros, float half, std::size_t count,
                          float* HWY_RESTRICT to_steps, float* HWY_RESTRICT centres) {
  const auto load = [&](auto d, std::size_t i) HWY_ATTR {
    const auto step = LoadUfloat16(d, reinterpret_cast<const std::uint16_t*>(steps) + i);
    const auto zero = LoadFloats(d, reinterpret_cast<const hwy::float16_t*>(zeros) + i);
    hn::StoreU(hn::Add(zero, hn::Mul(step, hn::Set(d, half))), d, centres + i);
    if (to_steps != nullptr) hn::StoreU(step, d, to_steps + i);
  };
  const AffineTag d;
  const hn::CappedTag<float, 8> d8;
  std::size_t i = 0;
  for (; i + hn::Lanes(d) <= count; i += hn::Lanes(d)) load(d, i);
  for (; i < count; i += hn::Lanes(d8)) load(d8, i);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
