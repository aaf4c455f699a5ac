#include "kernels/int8/int16_rows.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/int8/int16_rows.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/int8/int8-inl.h"
#include "kernels/int8/layout.h"
#include "kernels/ufloat16-inl.h"

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

/// Bytes that TableLookupBytes takes to make 0, 2, 1, 3 of every four 16-bit numbers.
template <class D16>
HWY_INLINE hn::Vec<D16> OrderOfFours(D16 d16) {
  const hn::Repartition<std::uint8_t, D16> d8;
  HWY_ALIGN static constexpr std::uint8_t kOrder[16] = {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15};
  return hn::BitCast(d16, hn::LoadDup128(d8, kOrder));
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

/// kQ rows at once: a row's maximum and quotient take long to come, and others' need not wait for them.
template <std::size_t kQ>
HWY_INLINE void RoundWeightRows(const float* HWY_RESTRICT weights, std::size_t stride, const float* HWY_RESTRICT numbers,
                                std::size_t tokens, Int16Row* HWY_RESTRICT rows, std::int16_t* HWY_RESTRICT integers) {
  const hn::CappedTag<float, kInt8KeyTile> df;
  const hn::RebindToSigned<decltype(df)> di;
  const hn::Rebind<std::int16_t, decltype(df)> d16;
  const auto order = OrderOfFours(d16);
  const std::size_t step = hn::Lanes(df);
  hn::Vec<decltype(df)> max[kQ];
  hn::Vec<decltype(di)> sum[kQ];
  float inverse[kQ];
  for (std::size_t q = 0; q < kQ; ++q) {
    max[q] = hn::Zero(df);
    sum[q] = hn::Zero(di);
  }
  for (std::size_t t = 0; t < tokens; t += step) {
    const auto number = hn::LoadU(df, numbers + t);
    for (std::size_t q = 0; q < kQ; ++q) max[q] = hn::Max(max[q], hn::Mul(hn::LoadU(df, weights + q * stride + t), number));
  }
  for (std::size_t q = 0; q < kQ; ++q) {
    const float largest = hn::GetLane(hn::MaxOfLanes(df, max[q]));
    const bool any = largest >= kInt16Smallest;
    rows[q].step = any ? largest / kInt16Limit : 0.0f;
    inverse[q] = any ? static_cast<float>(kInt16Limit) / largest : 0.0f;
  }
  for (std::size_t t = 0; t < tokens; t += step) {
    const auto number = hn::LoadU(df, numbers + t);
    for (std::size_t q = 0; q < kQ; ++q) {
      const auto product = hn::Mul(hn::LoadU(df, weights + q * stride + t), number);
      const auto v = hn::NearestInt(hn::Min(hn::Mul(product, hn::Set(df, inverse[q])), hn::Set(df, float{kInt16Limit})));
      sum[q] = hn::Add(sum[q], v);
      hn::StoreU(hn::TableLookupBytes(hn::DemoteTo(d16, v), order), d16, integers + q * tokens + t);
    }
  }
  for (std::size_t q = 0; q < kQ; ++q) rows[q].offset = -128 * hn::GetLane(hn::SumOfLanes(di, sum[q]));
}

void RoundWeightsTarget(const float* weights, std::size_t stride, std::size_t n, const std::uint16_t* scales,
                        std::size_t tokens, float* numbers, Int16Row* rows, std::int16_t* integers) {
  const hn::CappedTag<float, kInt8KeyTile> df;
  for (std::size_t t = 0; t < tokens; t += hn::Lanes(df)) hn::StoreU(LoadUfloat16(df, scales + t), df, numbers + t);
  std::size_t q = 0;
  for (; q + kQueryTile <= n; q += kQueryTile) {
    RoundWeightRows<kQueryTile>(weights + q * stride, stride, numbers, tokens, rows + q, integers + q * tokens);
  }
  for (; q < n; ++q) RoundWeightRows<1>(weights + q * stride, stride, numbers, tokens, rows + q, integers + q * tokens);
}

}  // namespace kvant::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(RoundTarget);
HWY_EXPORT(RoundWeightsTarget);

Int16Row RoundToInt16(const float* x, std::size_t n, std::int16_t* integers) noexcept {
  return HWY_DYNAMIC_DISPATCH(RoundTarget)(x, n, integers);
}

void RoundWeights(const float* weights, std::size_t stride, std::size_t n, const std::uint16_t* scales, std::size_t tokens,
                  float* numbers, Int16Row* rows, std::int16_t* integers) noexcept {
  HWY_DYNAMIC_DISPATCH(RoundWeightsTarget)(weights, stride, n, scales, tokens, numbers, rows, integers);
}

}  // namespace kvant::kernels
#endif
