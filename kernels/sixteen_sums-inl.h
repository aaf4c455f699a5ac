// A sum over a row that is the same bits on every target: sixteen running sums, number i goes to sum i % 16; then halves are
// added until one is left. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_SIXTEEN_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_SIXTEEN_SUMS_INL_H_
#undef KVANT_KERNELS_SIXTEEN_SUMS_INL_H_
#else
#define KVANT_KERNELS_SIXTEEN_SUMS_INL_H_
#endif

#include <cstddef>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr std::size_t kSums = 16;
using SumTag16 = hn::CappedTag<float, kSums>;
inline constexpr std::size_t kSumVectors = kSums / hn::MaxLanes(SumTag16());

/// The running sums as they stand in vectors, to `each` [16], aligned.
HWY_INLINE void StoreSums(const hn::Vec<SumTag16> (&sums)[kSumVectors], float* HWY_RESTRICT each) {
  for (std::size_t p = 0; p < kSumVectors; ++p) hn::Store(sums[p], SumTag16(), each + p * hn::MaxLanes(SumTag16()));
}

/// Their total; overwrites them.
HWY_INLINE float TotalOfSums(float* HWY_RESTRICT each) {
  const hn::CappedTag<float, 8> d8;
  const hn::CappedTag<float, 4> d4;
  for (std::size_t k = 0; k < 8; k += hn::Lanes(d8)) {
    hn::Store(hn::Add(hn::Load(d8, each + k), hn::Load(d8, each + 8 + k)), d8, each + k);
  }
  hn::Store(hn::Add(hn::Load(d4, each), hn::Load(d4, each + 4)), d4, each);
  return (each[0] + each[2]) + (each[1] + each[3]);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
