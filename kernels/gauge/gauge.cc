#include "kernels/gauge/gauge.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gauge/gauge.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/raw/rows-inl.h"
#include "kernels/sixteen_sums-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using WideTag = SumTag16;
using NarrowTag = hn::CappedTag<float, 8>;

/// Calls f(tag, d) for the dims from d on that a vector of the tag covers; the last 8 of an odd number of eights by narrow
/// ones.
template <class F>
HWY_INLINE void ForDims(std::size_t dim, const F& f) {
  std::size_t d = 0;
  for (; d + kSums <= dim; d += hn::Lanes(WideTag())) f(WideTag(), d);
  for (; d < dim; d += hn::Lanes(NarrowTag())) f(NarrowTag(), d);
}

template <class D>
HWY_INLINE hn::Vec<D> Means(D d, const std::uint16_t* mean) {
  return LoadFloats(d, reinterpret_cast<const hwy::float16_t*>(mean));
}

template <class D>
HWY_INLINE hn::Vec<D> Gains(D d, const std::uint8_t* gains) {
  const hn::RebindToUnsigned<D> du;
  const auto bytes = hn::PromoteTo(du, hn::LoadU(hn::Rebind<std::uint8_t, D>(), gains));
  return hn::BitCast(d, hn::Add(hn::ShiftLeft<20>(bytes), hn::Set(du, 111u << 23)));
}

void MeanTarget(const float* rows, std::size_t n, std::size_t dim, float* mean) {
  const float count = static_cast<float>(n);
  ForDims(dim, [&](auto d, std::size_t at) HWY_ATTR {
    auto sum = hn::Zero(d);
    for (std::size_t t = 0; t < n; ++t) sum = hn::Add(sum, hn::LoadU(d, rows + t * dim + at));
    hn::StoreU(hn::Div(sum, hn::Set(d, count)), d, mean + at);
  });
}

void SpreadTarget(const float* rows, std::size_t n, std::size_t dim, const std::uint16_t* mean, float* squares) {
  const float count = static_cast<float>(n);
  ForDims(dim, [&](auto d, std::size_t at) HWY_ATTR {
    const auto middle = Means(d, mean + at);
    auto sum = hn::Zero(d);
    for (std::size_t t = 0; t < n; ++t) {
      const auto x = hn::Sub(hn::LoadU(d, rows + t * dim + at), middle);
      sum = hn::Add(sum, hn::Mul(x, x));
    }
    hn::StoreU(hn::Div(sum, hn::Set(d, count)), d, squares + at);
  });
}

void ApplyTarget(const BlockGauge& gauge, std::size_t dim, std::size_t n, float* rows) {
  ForDims(dim, [&](auto d, std::size_t at) HWY_ATTR {
    const auto middle = Means(d, gauge.mean + at);
    const auto gain = gauge.gains == nullptr ? hn::Set(d, 1.0f) : Gains(d, gauge.gains + at);
    for (float* x = rows + at; x < rows + n * dim; x += dim) {
      const auto v = hn::Sub(hn::LoadU(d, x), middle);
      hn::StoreU(gauge.gains == nullptr ? v : hn::Div(v, gain), d, x);
    }
  });
}

void RemoveTarget(const BlockGauge& gauge, std::size_t dim, std::size_t n, float* rows, std::size_t stride) {
  ForDims(dim, [&](auto d, std::size_t at) HWY_ATTR {
    const auto middle = Means(d, gauge.mean + at);
    const auto gain = gauge.gains == nullptr ? hn::Set(d, 1.0f) : Gains(d, gauge.gains + at);
    for (std::size_t i = 0; i < n; ++i) {
      float* x = rows + i * stride + at;
      hn::StoreU(hn::Add(hn::Mul(hn::LoadU(d, x), gain), middle), d, x);
    }
  });
}

/// kRows queries at once: the mean is widened once for all of them.
template <std::size_t kRows>
HWY_INLINE void Dots(const std::uint16_t* HWY_RESTRICT mean, std::size_t dim, const float* HWY_RESTRICT queries,
                     std::size_t stride, float* HWY_RESTRICT dots) {
  const WideTag d;
  hn::Vec<WideTag> sums[kRows][kSumVectors];
  for (auto& row : sums) {
    for (auto& sum : row) sum = hn::Zero(d);
  }
  std::size_t at = 0;
  for (; at + kSums <= dim; at += kSums) {
#pragma GCC unroll 4
    for (std::size_t p = 0; p < kSumVectors; ++p) {
      const std::size_t i = at + p * hn::MaxLanes(d);
      const auto m = Means(d, mean + i);
#pragma GCC unroll 4
      for (std::size_t r = 0; r < kRows; ++r) {
        sums[r][p] = hn::Add(sums[r][p], hn::Mul(hn::LoadU(d, queries + r * stride + i), m));
      }
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    HWY_ALIGN float each[kSums];
    StoreSums(sums[r], each);
    if (at < dim) {  // eight more
      const NarrowTag narrow;
      for (std::size_t i = 0; i < 8; i += hn::Lanes(narrow)) {
        const auto product = hn::Mul(hn::LoadU(narrow, queries + r * stride + at + i), Means(narrow, mean + at + i));
        hn::Store(hn::Add(hn::Load(narrow, each + i), product), narrow, each + i);
      }
    }
    dots[r] = TotalOfSums(each);
  }
}

void DotsTarget(const BlockGauge& gauge, std::size_t dim, const float* queries, std::size_t stride, std::size_t n,
                float* dots) {
  std::size_t i = 0;
  for (; i + 4 <= n; i += 4) Dots<4>(gauge.mean, dim, queries + i * stride, stride, dots + i);
  for (; i < n; ++i) Dots<1>(gauge.mean, dim, queries + i * stride, stride, dots + i);
}

void ScaleTarget(const BlockGauge& gauge, std::size_t dim, const float* queries, std::size_t stride, std::size_t n,
                 float* scaled) {
  ForDims(dim, [&](auto d, std::size_t at) HWY_ATTR {
    const auto gain = Gains(d, gauge.gains + at);
    for (std::size_t i = 0; i < n; ++i)
      hn::StoreU(hn::Mul(hn::LoadU(d, queries + i * stride + at), gain), d, scaled + i * dim + at);
  });
}

void AddTarget(float* rows, std::size_t stride, std::size_t n, std::size_t width, const float* numbers) {
  const hn::ScalableTag<float> d;
  for (std::size_t i = 0; i < n; ++i) {
    float* row = rows + i * stride;
    const auto v = hn::Set(d, numbers[i]);
    std::size_t t = 0;
    for (; t + hn::Lanes(d) <= width; t += hn::Lanes(d)) hn::StoreU(hn::Add(hn::LoadU(d, row + t), v), d, row + t);
    for (; t < width; ++t) row[t] += numbers[i];
  }
}

}  // namespace kvant::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(MeanTarget);
HWY_EXPORT(SpreadTarget);
HWY_EXPORT(ApplyTarget);
HWY_EXPORT(RemoveTarget);
HWY_EXPORT(DotsTarget);
HWY_EXPORT(ScaleTarget);
HWY_EXPORT(AddTarget);

void MeanOfRows(const float* rows, std::size_t n, std::size_t dim, float* mean) noexcept {
  HWY_DYNAMIC_DISPATCH(MeanTarget)(rows, n, dim, mean);
}

void SpreadOfRows(const float* rows, std::size_t n, std::size_t dim, const std::uint16_t* mean, float* squares) noexcept {
  HWY_DYNAMIC_DISPATCH(SpreadTarget)(rows, n, dim, mean, squares);
}

void ApplyGauge(const BlockGauge& gauge, std::size_t dim, std::size_t n, float* rows) noexcept {
  HWY_DYNAMIC_DISPATCH(ApplyTarget)(gauge, dim, n, rows);
}

void RemoveGauge(const BlockGauge& gauge, std::size_t dim, std::size_t n, float* rows, std::size_t stride) noexcept {
  HWY_DYNAMIC_DISPATCH(RemoveTarget)(gauge, dim, n, rows, stride);
}

void DotsWithMean(const BlockGauge& gauge, std::size_t dim, const float* queries, std::size_t stride, std::size_t n,
                  float* dots) noexcept {
  HWY_DYNAMIC_DISPATCH(DotsTarget)(gauge, dim, queries, stride, n, dots);
}

void ScaleQueries(const BlockGauge& gauge, std::size_t dim, const float* queries, std::size_t stride, std::size_t n,
                  float* scaled) noexcept {
  HWY_DYNAMIC_DISPATCH(ScaleTarget)(gauge, dim, queries, stride, n, scaled);
}

void AddToRows(float* rows, std::size_t stride, std::size_t n, std::size_t width, const float* numbers) noexcept {
  HWY_DYNAMIC_DISPATCH(AddTarget)(rows, stride, n, width, numbers);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
