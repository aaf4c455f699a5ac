#include "kernels/int8/int8.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/int8/encode.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/bytes/factors-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr std::size_t kMaxDim = 1024;

template <class DF>
HWY_INLINE hn::Vec<hn::RebindToSigned<DF>> RoundAndClamp(DF df, hn::Vec<DF> x, float limit) {
  return hn::NearestInt(hn::Max(hn::Min(x, hn::Set(df, limit)), hn::Set(df, -limit)));
}

/// Codes of one row as bytes, dims in order.
template <class DF>
HWY_INLINE std::size_t PackRow(DF df, const float* row, float inverse_scale, std::size_t i, std::size_t dim,
                               std::uint8_t* bytes) {
  const hn::RebindToSigned<DF> di;
  const hn::Rebind<std::uint8_t, DF> du8;
  const std::size_t step = hn::Lanes(df);
  for (; i + step <= dim; i += step) {
    const auto codes = RoundAndClamp(df, hn::Mul(hn::LoadU(df, row + i), hn::Set(df, inverse_scale)), 127.0f);
    hn::StoreU(hn::DemoteTo(du8, hn::Add(codes, hn::Set(di, 128))), du8, bytes + i);
  }
  return i;
}

void PackKeysTarget(const float* rows, const float* inverse_scales, std::size_t dim, std::byte* tile) {
  std::uint8_t bytes[kMaxDim];
  for (std::size_t t = 0; t < kInt8KeyTile; ++t) {
    const std::size_t i = PackRow(hn::ScalableTag<float>(), rows + t * dim, inverse_scales[t], 0, dim, bytes);
    PackRow(hn::CappedTag<float, 8>(), rows + t * dim, inverse_scales[t], i, dim, bytes);
    for (std::size_t g = 0; g < dim / 4; ++g) std::memcpy(tile + 64 * g + 4 * t, bytes + 4 * g, 4);
  }
}

template <class DF>
HWY_INLINE std::size_t PackQuad(DF df, const float* rows, const float* inverse_scales, std::size_t i, std::size_t dim,
                                std::byte* quad) {
  const hn::RebindToSigned<DF> di;
  const std::size_t step = hn::Lanes(df);
  const auto code = [&](std::size_t t) HWY_ATTR {
    return hn::Add(RoundAndClamp(df, hn::Mul(hn::LoadU(df, rows + t * dim + i), hn::Set(df, inverse_scales[t])), 127.0f),
                   hn::Set(di, 128));
  };
  for (; i + step <= dim; i += step) {
    const auto low = hn::Or(code(0), hn::ShiftLeft<8>(code(1)));
    const auto high = hn::Or(hn::ShiftLeft<16>(code(2)), hn::ShiftLeft<24>(code(3)));
    hn::StoreU(hn::Or(low, high), di, reinterpret_cast<std::int32_t*>(quad + 4 * i));
  }
  return i;
}

void PackValuesTarget(const float* rows, const float* inverse_scales, std::size_t dim, std::byte* quad) {
  const std::size_t i = PackQuad(hn::ScalableTag<float>(), rows, inverse_scales, 0, dim, quad);
  PackQuad(hn::CappedTag<float, 8>(), rows, inverse_scales, i, dim, quad);
}

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
  row.total = sum;
  return row;
}

}  // namespace kvant::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(PackKeysTarget);
HWY_EXPORT(PackValuesTarget);
HWY_EXPORT(RoundTarget);

void PackInt8Keys(const float* rows, const float* inverse_scales, std::size_t dim, std::byte* tile) noexcept {
  HWY_DYNAMIC_DISPATCH(PackKeysTarget)(rows, inverse_scales, dim, tile);
}

void PackInt8Values(const float* rows, const float* inverse_scales, std::size_t dim, std::byte* quad) noexcept {
  HWY_DYNAMIC_DISPATCH(PackValuesTarget)(rows, inverse_scales, dim, quad);
}

Int16Row RoundToInt16(const float* x, std::size_t n, std::int16_t* integers) noexcept {
  return HWY_DYNAMIC_DISPATCH(RoundTarget)(x, n, integers);
}

}  // namespace kvant::kernels
#endif
