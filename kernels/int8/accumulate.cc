#include "kernels/int8/accumulate.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/int8/accumulate.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/int8/amx-inl.h"
#include "kernels/int8/int8-inl.h"
#include "kernels/int8/layout.h"
#include "kernels/machine/prefetch.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Sums are kQueryTile times this many vectors of dims.
constexpr std::size_t kVectorTile = HWY_MAX_BYTES >= 64 ? 4 : 2;

/// kV vectors of dims from dim `first` on, all tokens, for kQ rows of weights.
template <std::size_t kQ, std::size_t kV, class D32>
HWY_INLINE void AccumulateDims(D32 d, const Int16Row* weights, const std::int16_t* HWY_RESTRICT integers,
                               const std::byte* HWY_RESTRICT codes, std::size_t tokens, std::size_t dim, std::size_t first,
                               float* HWY_RESTRICT acc, std::size_t acc_stride, Prefetch& prefetch) {
  const hn::RebindToFloat<D32> df;
  const std::size_t lanes = hn::Lanes(d);
  hn::Vec<D32> sum[kQ][kV];
  for (std::size_t q = 0; q < kQ; ++q) {
    for (std::size_t v = 0; v < kV; ++v) sum[q][v] = hn::Set(d, weights[q].offset);
  }
  for (std::size_t t = 0; t < tokens; t += kInt8ValueTile) {
    Vec16<D32> even[kV];
    Vec16<D32> odd[kV];
    for (std::size_t v = 0; v < kV; ++v) LoadCodes(d, codes + t * dim + 4 * (first + v * lanes), even[v], odd[v]);
    for (std::size_t q = 0; q < kQ; ++q) {
      const auto weight_even = BroadcastPair(d, integers + q * tokens + t);
      const auto weight_odd = BroadcastPair(d, integers + q * tokens + t + 2);
      for (std::size_t v = 0; v < kV; ++v) sum[q][v] = MultiplyPairs(d, even[v], weight_even, sum[q][v]);
      for (std::size_t v = 0; v < kV; ++v) sum[q][v] = MultiplyPairs(d, odd[v], weight_odd, sum[q][v]);
    }
    prefetch.Step();
  }
  for (std::size_t q = 0; q < kQ; ++q) {
    for (std::size_t v = 0; v < kV; ++v) {
      float* out = acc + q * acc_stride + first + v * lanes;
      // Unfused, so that every target rounds alike.
      const auto added = hn::Mul(hn::ConvertTo(df, sum[q][v]), hn::Set(df, weights[q].step));
      hn::StoreU(hn::Add(hn::LoadU(df, out), added), df, out);
    }
  }
}

template <std::size_t kQ>
HWY_INLINE void AccumulateQueries(const Int16Row* weights, const std::int16_t* integers, const std::byte* codes,
                                  std::size_t tokens, std::size_t dim, float* acc, std::size_t acc_stride, Prefetch& prefetch) {
  const hn::ScalableTag<std::int32_t> d;
  const hn::CappedTag<std::int32_t, 8> tail;
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + kVectorTile * lanes <= dim; i += kVectorTile * lanes) {
    AccumulateDims<kQ, kVectorTile>(d, weights, integers, codes, tokens, dim, i, acc, acc_stride, prefetch);
  }
  for (; i + lanes <= dim; i += lanes)
    AccumulateDims<kQ, 1>(d, weights, integers, codes, tokens, dim, i, acc, acc_stride, prefetch);
  for (; i < dim; i += hn::Lanes(tail))
    AccumulateDims<kQ, 1>(tail, weights, integers, codes, tokens, dim, i, acc, acc_stride, prefetch);
}

void AccumulateTarget(const Int16Row* weights, const std::int16_t* integers, std::size_t n, const std::byte* codes,
                      std::size_t tokens, std::size_t dim, float* acc, std::size_t acc_stride, const std::byte* next,
                      std::size_t next_bytes) {
#if HWY_TARGET == HWY_AVX3_DL
  if (Int8UsesTiles(n, tokens) && dim % 32 == 0) {
    return AccumulateInt8Tiles(weights, integers, n, codes, tokens, dim, acc, acc_stride, next, next_bytes);
  }
#endif
  Prefetch prefetch(next, next_bytes, tokens / kInt8ValueTile);
  std::size_t q = 0;
  for (; q + kQueryTile <= n; q += kQueryTile) {
    AccumulateQueries<kQueryTile>(weights + q, integers + q * tokens, codes, tokens, dim, acc + q * acc_stride, acc_stride,
                                  prefetch);
  }
  for (; q < n; ++q)
    AccumulateQueries<1>(weights + q, integers + q * tokens, codes, tokens, dim, acc + q * acc_stride, acc_stride, prefetch);
}

}  // namespace kvant::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(AccumulateTarget);

void AccumulateInt8(const Int16Row* weights, const std::int16_t* integers, std::size_t n, const std::byte* codes,
                    std::size_t tokens, std::size_t dim, float* acc, std::size_t acc_stride, const std::byte* next,
                    std::size_t next_bytes) noexcept {
  HWY_DYNAMIC_DISPATCH(AccumulateTarget)(weights, integers, n, codes, tokens, dim, acc, acc_stride, next, next_bytes);
}

}  // namespace kvant::kernels
#endif
