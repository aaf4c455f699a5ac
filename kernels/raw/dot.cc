#include "kernels/raw/dot.h"

#include "kernels/machine/prefetch.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/raw/dot.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/raw/rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels::HWY_NAMESPACE {

// A tile of queries x tokens shares its loads; 16 accumulators fill half of AVX-512's registers, 8 half of the others'.
constexpr std::size_t kQueryTile = 4;
constexpr std::size_t kTokenTile = HWY_MAX_BYTES >= 64 ? 4 : 2;

#if HWY_MAX_BYTES >= 64
/// The sums of four vectors' lanes, in order.
template <class D>
HWY_INLINE hn::Vec<hn::CappedTag<float, 4>> SumFour(D d, hn::Vec<D> a, hn::Vec<D> b, hn::Vec<D> c, hn::Vec<D> e) {
  const hn::Repartition<double, D> d64;
  const hn::Half<D> d2;
  const hn::Half<decltype(d2)> d4;
  // Within every 128-bit block: a0+a2, b0+b2, a1+a3, b1+b3.
  const auto ab = hn::Add(hn::InterleaveLower(d, a, b), hn::InterleaveUpper(d, a, b));
  const auto ce = hn::Add(hn::InterleaveLower(d, c, e), hn::InterleaveUpper(d, c, e));
  const auto low = hn::InterleaveLower(d64, hn::BitCast(d64, ab), hn::BitCast(d64, ce));
  const auto high = hn::InterleaveUpper(d64, hn::BitCast(d64, ab), hn::BitCast(d64, ce));
  const auto blocks = hn::Add(hn::BitCast(d, low), hn::BitCast(d, high));
  const auto half = hn::Add(hn::LowerHalf(d2, blocks), hn::UpperHalf(d2, blocks));
  return hn::Add(hn::LowerHalf(d4, half), hn::UpperHalf(d4, half));
}
#endif

template <std::size_t kQ, std::size_t kT, typename T>
HWY_INLINE void DotTile(const float* HWY_RESTRICT queries, std::size_t dim, const T* HWY_RESTRICT rows, std::size_t stride,
                        float* HWY_RESTRICT logits, std::size_t logit_stride) {
  const hn::ScalableTag<float> d;
  const std::size_t step = hn::Lanes(d);
  hn::Vec<decltype(d)> acc[kQ][kT];
  for (std::size_t q = 0; q < kQ; ++q) {
    for (std::size_t t = 0; t < kT; ++t) acc[q][t] = hn::Zero(d);
  }
  std::size_t i = 0;
  for (; i + step <= dim; i += step) {
    hn::Vec<decltype(d)> row[kT];
    for (std::size_t t = 0; t < kT; ++t) row[t] = LoadFloats(d, rows + t * stride + i);
    for (std::size_t q = 0; q < kQ; ++q) {
      const auto query = hn::LoadU(d, queries + q * dim + i);
      for (std::size_t t = 0; t < kT; ++t) acc[q][t] = hn::MulAdd(query, row[t], acc[q][t]);
    }
  }
  if (i < dim) {
    for (std::size_t q = 0; q < kQ; ++q) {
      const auto query = LoadFloatsTail(d, queries + q * dim + i);
      for (std::size_t t = 0; t < kT; ++t) {
        acc[q][t] = hn::MulAdd(query, LoadFloatsTail(d, rows + t * stride + i), acc[q][t]);
      }
    }
  }
#if HWY_MAX_BYTES >= 64
  // A single row at the end goes the same way, so that a sum does not depend on where its row stands.
  const hn::CappedTag<float, 4> d4;
  for (std::size_t q = 0; q < kQ; ++q) {
    if constexpr (kT == 4) {
      hn::StoreU(SumFour(d, acc[q][0], acc[q][1], acc[q][2], acc[q][3]), d4, logits + q * logit_stride);
    } else {
      logits[q * logit_stride] = hn::GetLane(SumFour(d, acc[q][0], acc[q][0], acc[q][0], acc[q][0]));
    }
  }
#else
  for (std::size_t q = 0; q < kQ; ++q) {
    for (std::size_t t = 0; t < kT; ++t) logits[q * logit_stride + t] = hn::GetLane(hn::SumOfLanes(d, acc[q][t]));
  }
#endif
}

template <std::size_t kQ, typename T>
HWY_INLINE void DotQueries(const float* queries, const T* rows, const RowsView& view, float* logits, std::size_t logit_stride,
                           Prefetch& prefetch) {
  std::size_t t = 0;
  for (; t + kTokenTile <= view.count; t += kTokenTile) {
    prefetch.Step();
    DotTile<kQ, kTokenTile>(queries, view.dim, rows + t * view.stride, view.stride, logits + t, logit_stride);
  }
  for (; t < view.count; ++t) {
    DotTile<kQ, 1>(queries, view.dim, rows + t * view.stride, view.stride, logits + t, logit_stride);
  }
}

template <typename T>
void DotTyped(const float* queries, std::size_t n, const T* rows, const RowsView& view, float* logits, std::size_t logit_stride,
              Prefetch& prefetch) {
  std::size_t q = 0;
  for (; q + kQueryTile <= n; q += kQueryTile) {
    DotQueries<kQueryTile>(queries + q * view.dim, rows, view, logits + q * logit_stride, logit_stride, prefetch);
  }
  for (; q < n; ++q) {
    DotQueries<1>(queries + q * view.dim, rows, view, logits + q * logit_stride, logit_stride, prefetch);
  }
}

void DotRowsTarget(const float* queries, std::size_t n, const RowsView& view, float* logits, std::size_t logit_stride,
                   const std::byte* next, std::size_t next_bytes) {
  Prefetch prefetch(next, next_bytes, view.count / kTokenTile);
  switch (view.type) {
    case ElementType::kF32:
      DotTyped(queries, n, static_cast<const float*>(view.data), view, logits, logit_stride, prefetch);
      break;
    case ElementType::kF16:
      DotTyped(queries, n, static_cast<const hwy::float16_t*>(view.data), view, logits, logit_stride, prefetch);
      break;
    case ElementType::kBF16:
      DotTyped(queries, n, static_cast<const hwy::bfloat16_t*>(view.data), view, logits, logit_stride, prefetch);
      break;
  }
}

}  // namespace kvant::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(DotRowsTarget);

void DotRows(const float* queries, std::size_t n, const RowsView& rows, float* logits, std::size_t logit_stride,
             const std::byte* next, std::size_t next_bytes) noexcept {
  HWY_DYNAMIC_DISPATCH(DotRowsTarget)(queries, n, rows, logits, logit_stride, next, next_bytes);
}

}  // namespace kvant::kernels
#endif
