#include "kernels/raw/weighted_sum.h"

#include "kernels/machine/prefetch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/raw/weighted_sum.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/raw/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels::HWY_NAMESPACE {

// Queries x vectors of dims held in registers while the tokens stream by.
constexpr std::size_t kQueryTile = 4;
constexpr std::size_t kVectorTile = HWY_MAX_BYTES >= 64 ? 4 : 2;

/// One strip of kV vectors of dims for kQ queries, all tokens.
template <std::size_t kQ, std::size_t kV, class D, typename T>
HWY_INLINE void SumStrip(D d, const float* HWY_RESTRICT weights, std::size_t weight_stride, const T* HWY_RESTRICT rows,
                         std::size_t count, std::size_t stride, float* HWY_RESTRICT acc, std::size_t acc_stride,
                         Prefetch& prefetch) {
  const std::size_t step = hn::Lanes(d);
  hn::Vec<D> sum[kQ][kV];
  for (std::size_t q = 0; q < kQ; ++q) {
    for (std::size_t v = 0; v < kV; ++v) sum[q][v] = hn::Zero(d);
  }
  for (std::size_t t = 0; t < count; ++t) {
    prefetch.Step();
    hn::Vec<D> row[kV];
    for (std::size_t v = 0; v < kV; ++v) row[v] = LoadFloats(d, rows + t * stride + v * step);
    for (std::size_t q = 0; q < kQ; ++q) {
      const auto weight = hn::Set(d, weights[q * weight_stride + t]);
      for (std::size_t v = 0; v < kV; ++v) sum[q][v] = hn::MulAdd(weight, row[v], sum[q][v]);
    }
  }
  for (std::size_t q = 0; q < kQ; ++q) {
    for (std::size_t v = 0; v < kV; ++v) {
      float* out = acc + q * acc_stride + v * step;
      hn::StoreU(hn::Add(hn::LoadU(d, out), sum[q][v]), d, out);
    }
  }
}

template <std::size_t kQ, typename T>
HWY_INLINE void SumQueries(const float* weights, std::size_t weight_stride, const T* rows, const RowsView& view, float* acc,
                           std::size_t acc_stride, Prefetch& prefetch) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 8> tail;
  const std::size_t step = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + kVectorTile * step <= view.dim; i += kVectorTile * step) {
    SumStrip<kQ, kVectorTile>(d, weights, weight_stride, rows + i, view.count, view.stride, acc + i, acc_stride, prefetch);
  }
  for (; i + step <= view.dim; i += step) {
    SumStrip<kQ, 1>(d, weights, weight_stride, rows + i, view.count, view.stride, acc + i, acc_stride, prefetch);
  }
  for (; i < view.dim; i += hn::Lanes(tail)) {
    SumStrip<kQ, 1>(tail, weights, weight_stride, rows + i, view.count, view.stride, acc + i, acc_stride, prefetch);
  }
}

template <typename T>
void SumTyped(const float* weights, std::size_t weight_stride, std::size_t n, const T* rows, const RowsView& view, float* acc,
              std::size_t acc_stride, Prefetch& prefetch) {
  std::size_t q = 0;
  for (; q + kQueryTile <= n; q += kQueryTile) {
    SumQueries<kQueryTile>(weights + q * weight_stride, weight_stride, rows, view, acc + q * acc_stride, acc_stride, prefetch);
  }
  for (; q < n; ++q) {
    SumQueries<1>(weights + q * weight_stride, weight_stride, rows, view, acc + q * acc_stride, acc_stride, prefetch);
  }
}

void WeightedSumTarget(const float* weights, std::size_t weight_stride, std::size_t n, const RowsView& view, float* acc,
                       std::size_t acc_stride, const std::byte* next, std::size_t next_bytes) {
  // Every strip of dims walks over all tokens.
  const std::size_t strip = kVectorTile * hn::Lanes(hn::ScalableTag<float>());
  Prefetch prefetch(next, next_bytes, (view.dim + strip - 1) / strip * view.count);
  switch (view.type) {
    case ElementType::kF32:
      SumTyped(weights, weight_stride, n, static_cast<const float*>(view.data), view, acc, acc_stride, prefetch);
      break;
    case ElementType::kF16:
      SumTyped(weights, weight_stride, n, static_cast<const hwy::float16_t*>(view.data), view, acc, acc_stride, prefetch);
      break;
    case ElementType::kBF16:
      SumTyped(weights, weight_stride, n, static_cast<const hwy::bfloat16_t*>(view.data), view, acc, acc_stride, prefetch);
      break;
  }
}

template <class D>
HWY_INLINE std::size_t RescaleVectors(D d, float* acc, std::size_t i, std::size_t n, float factor) {
  const auto f = hn::Set(d, factor);
  const std::size_t step = hn::Lanes(d);
  for (; i + step <= n; i += step) hn::StoreU(hn::Mul(hn::LoadU(d, acc + i), f), d, acc + i);
  return i;
}

void RescaleTarget(float* acc, std::size_t n, float factor) {
  const std::size_t i = RescaleVectors(hn::ScalableTag<float>(), acc, 0, n, factor);
  RescaleVectors(hn::CappedTag<float, 1>(), acc, i, n, factor);
}

template <class D>
HWY_INLINE std::size_t AddScaledVectors(D d, const float* x, std::size_t i, std::size_t n, float factor, float* acc) {
  const auto f = hn::Set(d, factor);
  const std::size_t step = hn::Lanes(d);
  // Unfused: the end of a row must not round differently from its vectors.
  for (; i + step <= n; i += step) hn::StoreU(hn::Add(hn::LoadU(d, acc + i), hn::Mul(hn::LoadU(d, x + i), f)), d, acc + i);
  return i;
}

void AddScaledTarget(const float* x, std::size_t n, float factor, float* acc) {
  const std::size_t i = AddScaledVectors(hn::ScalableTag<float>(), x, 0, n, factor, acc);
  AddScaledVectors(hn::CappedTag<float, 1>(), x, i, n, factor, acc);
}

}  // namespace kvant::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(WeightedSumTarget);
HWY_EXPORT(RescaleTarget);
HWY_EXPORT(AddScaledTarget);

void WeightedSumRows(const float* weights, std::size_t weight_stride, std::size_t n, const RowsView& rows, float* acc,
                     std::size_t acc_stride, const std::byte* next, std::size_t next_bytes) noexcept {
  HWY_DYNAMIC_DISPATCH(WeightedSumTarget)(weights, weight_stride, n, rows, acc, acc_stride, next, next_bytes);
}

void Rescale(float* acc, std::size_t n, float factor) noexcept { HWY_DYNAMIC_DISPATCH(RescaleTarget)(acc, n, factor); }

void AddScaled(const float* x, std::size_t n, float factor, float* acc) noexcept {
  HWY_DYNAMIC_DISPATCH(AddScaledTarget)(x, n, factor, acc);
}

}  // namespace kvant::kernels
#endif
