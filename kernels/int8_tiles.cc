#include "kernels/int8_tiles.h"

#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/int8_tiles.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/ufloat16.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

constexpr std::size_t kQueryTile = 4;
constexpr std::size_t kMaxDim = 1024;
// Accumulators: kQueryTile times this many vectors of tokens or dims.
constexpr std::size_t kVectorTile = HWY_MAX_BYTES >= 64 ? 4 : 2;
constexpr std::size_t kCacheLine = 64;

template <class D32>
using Vec16 = hn::Vec<hn::Repartition<std::int16_t, D32>>;

/// acc + a[2i] * b[2i] + a[2i+1] * b[2i+1] per 32-bit lane i, modulo 2^32.
template <class D32>
HWY_INLINE hn::Vec<D32> MultiplyPairs(D32 d, Vec16<D32> a, Vec16<D32> b, hn::Vec<D32> acc) {
#if HWY_TARGET == HWY_AVX3_DL
  // g++ 12 copies and spills the accumulators of the intrinsic; a tied operand does not.
  if constexpr (sizeof(acc) == 64) {
    asm("vpdpwssd %2, %1, %0" : "+v"(acc.raw) : "v"(a.raw), "v"(b.raw));
    return acc;
  }
#endif
#if HWY_ARCH_X86
  auto unused = hn::Zero(d);
  return hn::ReorderWidenMulAccumulate(d, a, b, acc, unused);
#else
  auto odd = hn::Zero(d);
  const auto even = hn::ReorderWidenMulAccumulate(d, a, b, hn::Zero(d), odd);
  return hn::Add(acc, hn::RearrangeToOddPlusEven(even, odd));
#endif
}

/// The 1st and 3rd, and the 2nd and 4th byte of every 32-bit lane, as pairs of 16-bit numbers.
template <class D32>
HWY_INLINE void LoadCodes(D32 d, const std::byte* p, Vec16<D32>& even, Vec16<D32>& odd) {
  const hn::Repartition<std::int16_t, D32> d16;
  const hn::Repartition<std::uint16_t, D32> du16;
  const auto words = hn::BitCast(du16, hn::LoadU(d, reinterpret_cast<const std::int32_t*>(p)));
  even = hn::BitCast(d16, hn::And(words, hn::Set(du16, 0xff)));
  odd = hn::BitCast(d16, hn::ShiftRight<8>(words));
}

/// Two adjacent integers in every 32-bit lane.
template <class D32>
HWY_INLINE Vec16<D32> BroadcastPair(D32 d, const std::int16_t* two) {
  std::int32_t pair;
  std::memcpy(&pair, two, sizeof(pair));
  return hn::BitCast(hn::Repartition<std::int16_t, D32>(), hn::Set(d, pair));
}

template <class DF>
HWY_INLINE hn::Vec<DF> LoadScales(DF df, const std::uint16_t* scales) {
  const hn::RebindToUnsigned<DF> du;
  const hn::Rebind<std::uint16_t, DF> du16;
  const auto bits = hn::ShiftLeft<13>(hn::PromoteTo(du, hn::LoadU(du16, scales)));
  return hn::Mul(hn::BitCast(df, bits), hn::Set(df, kTwoTo96));
}

template <class DF>
HWY_INLINE hn::Vec<hn::RebindToSigned<DF>> RoundAndClamp(DF df, hn::Vec<DF> x, float limit) {
  return hn::NearestInt(hn::Max(hn::Min(x, hn::Set(df, limit)), hn::Set(df, -limit)));
}

/// Spreads prefetches of [next, next + bytes) over `steps` calls of Step.
class Prefetcher {
 public:
  Prefetcher(const std::byte* next, std::size_t bytes, std::size_t steps)
      : next_(next),
        end_(next + bytes),
        bytes_per_step_((bytes / (steps == 0 ? 1 : steps) + kCacheLine) / kCacheLine * kCacheLine) {}
  HWY_INLINE void Step() {
    const std::byte* stop = static_cast<std::size_t>(end_ - next_) > bytes_per_step_ ? next_ + bytes_per_step_ : end_;
    for (; next_ < stop; next_ += kCacheLine) __builtin_prefetch(next_, 0, 2);
    next_ = stop;
  }

 private:
  const std::byte* next_;
  const std::byte* end_;
  std::size_t bytes_per_step_;
};

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

/// kV vectors of adjacent tokens, starting at token `first` (a multiple of the vector's lanes), against kQ queries.
template <std::size_t kQ, std::size_t kV>
HWY_INLINE void ScoreTokens(const Int16Row* queries, const std::int16_t* HWY_RESTRICT integers,
                            const std::byte* HWY_RESTRICT codes, const std::uint16_t* scales, std::size_t first,
                            std::size_t dim, float* HWY_RESTRICT logits, std::size_t stride) {
  using D32 = hn::CappedTag<std::int32_t, kInt8KeyTile>;
  const D32 d;
  const hn::RebindToFloat<D32> df;
  const std::size_t lanes = hn::Lanes(d);
  hn::Vec<D32> acc[kQ][kV];
  const std::byte* base[kV];
  for (std::size_t v = 0; v < kV; ++v) {
    const std::size_t token = first + v * lanes;
    base[v] = codes + token / kInt8KeyTile * (kInt8KeyTile * dim) + token % kInt8KeyTile * 4;
  }
  for (std::size_t q = 0; q < kQ; ++q) {
    for (std::size_t v = 0; v < kV; ++v) acc[q][v] = hn::Set(d, queries[q].offset);
  }
  for (std::size_t g = 0; g < dim / 4; ++g) {
    Vec16<D32> even[kV];
    Vec16<D32> odd[kV];
    for (std::size_t v = 0; v < kV; ++v) LoadCodes(d, base[v] + 64 * g, even[v], odd[v]);
    for (std::size_t q = 0; q < kQ; ++q) {
      const auto query_even = BroadcastPair(d, integers + q * dim + 4 * g);
      const auto query_odd = BroadcastPair(d, integers + q * dim + 4 * g + 2);
      for (std::size_t v = 0; v < kV; ++v) acc[q][v] = MultiplyPairs(d, even[v], query_even, acc[q][v]);
      for (std::size_t v = 0; v < kV; ++v) acc[q][v] = MultiplyPairs(d, odd[v], query_odd, acc[q][v]);
    }
  }
  for (std::size_t v = 0; v < kV; ++v) {
    const std::size_t token = first + v * lanes;
    const auto scale = LoadScales(df, scales + token);
    for (std::size_t q = 0; q < kQ; ++q) {
      const auto logit = hn::Mul(hn::Mul(hn::ConvertTo(df, acc[q][v]), hn::Set(df, queries[q].step)), scale);
      hn::StoreU(logit, df, logits + q * stride + token);
    }
  }
}

template <std::size_t kQ>
HWY_INLINE void ScoreQueries(const Int16Row* queries, const std::int16_t* integers, const std::byte* codes,
                             const std::uint16_t* scales, std::size_t tokens, std::size_t dim, float* logits,
                             std::size_t stride, Prefetcher& prefetch) {
  const std::size_t lanes = hn::Lanes(hn::CappedTag<std::int32_t, kInt8KeyTile>());
  std::size_t t = 0;
  for (; t + 2 * lanes <= tokens; t += 2 * lanes) {
    ScoreTokens<kQ, 2>(queries, integers, codes, scales, t, dim, logits, stride);
    prefetch.Step();
  }
  for (; t < tokens; t += lanes) ScoreTokens<kQ, 1>(queries, integers, codes, scales, t, dim, logits, stride);
}

void ScoreTarget(const Int16Row* queries, const std::int16_t* integers, std::size_t n, const std::byte* codes,
                 const std::uint16_t* scales, std::size_t tokens, std::size_t dim, float* logits, std::size_t stride,
                 const std::byte* next, std::size_t next_bytes) {
  Prefetcher prefetch(next, next_bytes, tokens / (2 * hn::Lanes(hn::CappedTag<std::int32_t, kInt8KeyTile>())));
  std::size_t q = 0;
  for (; q + kQueryTile <= n; q += kQueryTile) {
    ScoreQueries<kQueryTile>(queries + q, integers + q * dim, codes, scales, tokens, dim, logits + q * stride, stride,
                             prefetch);
  }
  for (; q < n; ++q)
    ScoreQueries<1>(queries + q, integers + q * dim, codes, scales, tokens, dim, logits + q * stride, stride, prefetch);
}

/// kV vectors of dims from dim `first` on, all tokens, for kQ rows of weights.
template <std::size_t kQ, std::size_t kV, class D32>
HWY_INLINE void AccumulateDims(D32 d, const Int16Row* weights, const std::int16_t* HWY_RESTRICT integers,
                               const std::byte* HWY_RESTRICT codes, std::size_t tokens, std::size_t dim, std::size_t first,
                               float* HWY_RESTRICT acc, std::size_t acc_stride, Prefetcher& prefetch) {
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
                                  std::size_t tokens, std::size_t dim, float* acc, std::size_t acc_stride,
                                  Prefetcher& prefetch) {
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
  Prefetcher prefetch(next, next_bytes, tokens / kInt8ValueTile);
  std::size_t q = 0;
  for (; q + kQueryTile <= n; q += kQueryTile) {
    AccumulateQueries<kQueryTile>(weights + q, integers + q * tokens, codes, tokens, dim, acc + q * acc_stride, acc_stride,
                                  prefetch);
  }
  for (; q < n; ++q)
    AccumulateQueries<1>(weights + q, integers + q * tokens, codes, tokens, dim, acc + q * acc_stride, acc_stride, prefetch);
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
  for (std::size_t t = 0; t < tokens; t += hn::Lanes(df)) hn::StoreU(LoadScales(df, scales + t), df, numbers + t);
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
HWY_EXPORT(PackKeysTarget);
HWY_EXPORT(PackValuesTarget);
HWY_EXPORT(ScoreTarget);
HWY_EXPORT(AccumulateTarget);
HWY_EXPORT(RoundWeightsTarget);

Int16Row RoundToInt16(const float* x, std::size_t n, std::int16_t* integers) noexcept {
  return HWY_DYNAMIC_DISPATCH(RoundTarget)(x, n, integers);
}

void PackInt8Keys(const float* rows, const float* inverse_scales, std::size_t dim, std::byte* tile) noexcept {
  HWY_DYNAMIC_DISPATCH(PackKeysTarget)(rows, inverse_scales, dim, tile);
}

void PackInt8Values(const float* rows, const float* inverse_scales, std::size_t dim, std::byte* quad) noexcept {
  HWY_DYNAMIC_DISPATCH(PackValuesTarget)(rows, inverse_scales, dim, quad);
}

void ScoreInt8(const Int16Row* queries, const std::int16_t* integers, std::size_t n, const std::byte* codes,
               const std::uint16_t* scales, std::size_t tokens, std::size_t dim, float* logits, std::size_t stride,
               const std::byte* next, std::size_t next_bytes) noexcept {
  HWY_DYNAMIC_DISPATCH(ScoreTarget)(queries, integers, n, codes, scales, tokens, dim, logits, stride, next, next_bytes);
}

void AccumulateInt8(const Int16Row* weights, const std::int16_t* integers, std::size_t n, const std::byte* codes,
                    std::size_t tokens, std::size_t dim, float* acc, std::size_t acc_stride, const std::byte* next,
                    std::size_t next_bytes) noexcept {
  HWY_DYNAMIC_DISPATCH(AccumulateTarget)(weights, integers, n, codes, tokens, dim, acc, acc_stride, next, next_bytes);
}

void RoundWeights(const float* weights, std::size_t stride, std::size_t n, const std::uint16_t* scales, std::size_t tokens,
                  float* numbers, Int16Row* rows, std::int16_t* integers) noexcept {
  HWY_DYNAMIC_DISPATCH(RoundWeightsTarget)(weights, stride, n, scales, tokens, numbers, rows, integers);
}

}  // namespace kvant::kernels
#endif
