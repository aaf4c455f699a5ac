#include "kernels/int8/int8.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/int8/int16_rows.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/int8/int8-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Largest magnitude of whole vectors from element `i` on.
template <class DF>
HWY_INLINE std::size_t LargestOf(DF df, const float* x, std::size_t i, std::size_t n, float* largest) {
  const std::size_t step = hn::Lanes(df);
  if (i + step > n) return i;
  auto max = hn::Zero(df);
  for (; i + step <= n; i += step) max = hn::Max(max, hn::Abs(hn::LoadU(df, x + i)));
  const float m = hn::GetLane(hn::MaxOfLanes(df, max));
  *largest = m > *largest ? m : *largest;
  return i;
}

template <class DF>
HWY_INLINE std::size_t RoundVectors(DF df, const float* x, std::size_t i, std::size_t n, float inverse, std::int16_t* integers,
                                    std::int32_t* total) {
  const hn::RebindToSigned<DF> di;
  const hn::Rebind<std::int16_t, DF> d16;
  const auto order = OrderOfFours(d16);
  const std::size_t step = hn::Lanes(df);
  auto sum = hn::Zero(di);
  for (; i + step <= n; i += step) {
    const auto v = RoundAndClamp(df, hn::Mul(hn::LoadU(df, x + i), hn::Set(df, inverse)), kInt16Limit);
    sum = hn::Add(sum, v);
    hn::StoreU(hn::TableLookupBytes(hn::DemoteTo(d16, v), order), d16, integers + i);
  }
  *total += hn::GetLane(hn::SumOfLanes(di, sum));
  return i;
}

Int16Row RoundTarget(const float* x, std::size_t n, std::int16_t* integers) {
  const hn::ScalableTag<float> df;
  const hn::CappedTag<float, 4> four;
  float max = 0.0f;
  std::size_t i = LargestOf(df, x, 0, n, &max);
  LargestOf(four, x, i, n, &max);
  Int16Row row;
  if (!(max >= kInt16Smallest)) {
    std::memset(integers, 0, n * sizeof(std::int16_t));
    return row;
  }
  row.step = max / kInt16Limit;
  const float inverse = static_cast<float>(kInt16Limit) / max;
  std::int32_t sum = 0;
  i = RoundVectors(df, x, 0, n, inverse, integers, &sum);
  RoundVectors(four, x, i, n, inverse, integers, &sum);
  row.offset = -128 * sum;
  return row;
}

}  // namespace kvant::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(RoundTarget);

Int16Row RoundToInt16(const float* x, std::size_t n, std::int16_t* integers) noexcept {
  return HWY_DYNAMIC_DISPATCH(RoundTarget)(x, n, integers);
}

}  // namespace kvant::kernels
#endif
