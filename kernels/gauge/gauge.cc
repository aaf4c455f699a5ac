#include "kernels/gauge/gauge.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gauge/gauge.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/raw/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr std::size_t kWide = 16;
using WideTag = hn::CappedTag<float, kWide>;
using NarrowTag = hn::CappedTag<float, 8>;

/// Calls f(tag, d) for the dims from d on that a vector of the tag covers; the last 8 of an odd number of eights by narrow
/// ones.
template <class F>
HWY_INLINE void ForDims(std::size_t dim, const F& f) {
  std::size_t d = 0;
  for (; d + kWide <= dim; d += hn::Lanes(WideTag())) f(WideTag(), d);
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

void QueriesTarget(const BlockGauge& gauge, std::size_t dim, const float* queries, std::size_t stride, std::size_t n,
                   float* scaled, float* bias) {
  HWY_ALIGN float sums[kWide];
  for (std::size_t i = 0; i < n; ++i) {
    const float* query = queries + i * stride;
    for (float& sum : sums) sum = 0.0f;
    ForDims(dim, [&](auto d, std::size_t at) HWY_ATTR {
      const auto q = hn::LoadU(d, query + at);
      float* sum = sums + at % kWide;
      hn::StoreU(hn::Add(hn::LoadU(d, sum), hn::Mul(q, Means(d, gauge.mean + at))), d, sum);
      if (gauge.gains != nullptr) hn::StoreU(hn::Mul(q, Gains(d, gauge.gains + at)), d, scaled + i * dim + at);
    });
    for (std::size_t half = kWide / 2; half > 0; half /= 2) {
      for (std::size_t k = 0; k < half; ++k) sums[k] += sums[k + half];
    }
    bias[i] = sums[0];
  }
}

void AddTarget(float* row, std::size_t n, float number) {
  const hn::ScalableTag<float> d;
  const auto v = hn::Set(d, number);
  std::size_t i = 0;
  for (; i + hn::Lanes(d) <= n; i += hn::Lanes(d)) hn::StoreU(hn::Add(hn::LoadU(d, row + i), v), d, row + i);
  for (; i < n; ++i) row[i] += number;
}

}  // namespace kvant::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(MeanTarget);
HWY_EXPORT(SpreadTarget);
HWY_EXPORT(ApplyTarget);
HWY_EXPORT(RemoveTarget);
HWY_EXPORT(QueriesTarget);
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

void GaugeQueries(const BlockGauge& gauge, std::size_t dim, const float* queries, std::size_t stride, std::size_t n,
                  float* scaled, float* bias) noexcept {
  HWY_DYNAMIC_DISPATCH(QueriesTarget)(gauge, dim, queries, stride, n, scaled, bias);
}

void AddNumber(float* row, std::size_t n, float number) noexcept { HWY_DYNAMIC_DISPATCH(AddTarget)(row, n, number); }

}  // namespace kvant::kernels
#endif  // HWY_ONCE
