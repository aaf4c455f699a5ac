// Numbers out of a small table, by lanes. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_POLAR_PICK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_POLAR_PICK_INL_H_
#undef KVANT_KERNELS_POLAR_PICK_INL_H_
#else
#define KVANT_KERNELS_POLAR_PICK_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// table[code] of each lane, code < kEntries; `table` holds whole vectors: where it has fewer numbers than a vector has lanes
/// it repeats them.
template <std::size_t kEntries, class D>
HWY_INLINE hn::Vec<D> Pick(D d, const float* HWY_RESTRICT table, hn::Vec<hn::RebindToSigned<D>> code) {
  const hn::RebindToSigned<D> di;
  constexpr std::size_t kLanesOf = hn::MaxLanes(D());
  if constexpr (kEntries <= kLanesOf) {
    return hn::TableLookupLanes(hn::LoadU(d, table), hn::IndicesFromVec(d, code));
  } else {
    const auto within = hn::IndicesFromVec(d, hn::And(code, hn::Set(di, static_cast<std::int32_t>(kLanesOf - 1))));
    auto picked = hn::TableLookupLanes(hn::LoadU(d, table), within);
#pragma GCC unroll 8
    for (std::size_t begin = kLanesOf; begin < kEntries; begin += kLanesOf) {
      const auto here = hn::RebindMask(d, hn::Gt(code, hn::Set(di, static_cast<std::int32_t>(begin) - 1)));
      picked = hn::IfThenElse(here, hn::TableLookupLanes(hn::LoadU(d, table + begin), within), picked);
    }
    return picked;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
