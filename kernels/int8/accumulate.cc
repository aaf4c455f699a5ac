#include "kernels/int8/int8.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/int8/accumulate.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/int8/amx-inl.h"
#include "kernels/int8/int8-inl.h"
#include "kernels/machine/prefetch.h"
#include "kernels/ufloat16-inl.h"

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

/// Rounds the weights of all queries, each times its token's scale. `numbers` is scratch of [tokens].
HWY_INLINE void RoundWeights(const ByteAccumulateArgs& args, float* HWY_RESTRICT numbers, Int16Row* rows,
                             std::int16_t* integers) {
  const hn::CappedTag<float, kInt8KeyTile> df;
  const std::size_t tokens = args.tokens;
  const auto* scales = reinterpret_cast<const std::uint16_t*>(args.block + tokens * args.dim);
  for (std::size_t t = 0; t < tokens; t += hn::Lanes(df)) hn::StoreU(LoadUfloat16(df, scales + t), df, numbers + t);
  std::size_t q = 0;
  for (; q + kQueryTile <= args.queries; q += kQueryTile) {
    RoundWeightRows<kQueryTile>(args.weights + q * args.stride, args.stride, numbers, tokens, rows + q, integers + q * tokens);
  }
  for (; q < args.queries; ++q) {
    RoundWeightRows<1>(args.weights + q * args.stride, args.stride, numbers, tokens, rows + q, integers + q * tokens);
  }
}

void AccumulateTarget(const ByteAccumulateArgs& args) {
  const std::size_t n = args.queries, dim = args.dim, tokens = args.tokens, acc_stride = args.acc_stride;
  auto* weights = reinterpret_cast<Int16Row*>(args.scratch + Int8TileBytes(n));
  auto* numbers = reinterpret_cast<float*>(weights + n);
  auto* integers = reinterpret_cast<std::int16_t*>(numbers + tokens);
  RoundWeights(args, numbers, weights, integers);
  if (std::none_of(weights, weights + n, [](const Int16Row& row) { return row.step > 0.0f; })) return;
#if HWY_TARGET == HWY_AVX3_DL
  if (Int8UsesTiles(n, tokens) && dim % 32 == 0) return AccumulateInt8Tiles(args, weights, integers);
#endif
  const std::byte* codes = args.block;
  float* acc = args.acc;
  Prefetch prefetch(args.next, args.next_bytes, tokens / kInt8ValueTile);
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

void AccumulateInt8(const ByteAccumulateArgs& args) noexcept { HWY_DYNAMIC_DISPATCH(AccumulateTarget)(args); }

}  // namespace kvant::kernels
#endif
