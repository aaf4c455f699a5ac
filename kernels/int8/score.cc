#include "kernels/int8/int8.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/int8/score.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/int8/amx-inl.h"
#include "kernels/int8/int8-inl.h"
#include "kernels/machine/prefetch.h"
#include "kernels/ufloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

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
    const auto scale = LoadUfloat16(df, scales + token);
    for (std::size_t q = 0; q < kQ; ++q) {
      const auto logit = hn::Mul(hn::Mul(hn::ConvertTo(df, acc[q][v]), hn::Set(df, queries[q].step)), scale);
      hn::StoreU(logit, df, logits + q * stride + token);
    }
  }
}

template <std::size_t kQ>
HWY_INLINE void ScoreQueries(const Int16Row* queries, const std::int16_t* integers, const std::byte* codes,
                             const std::uint16_t* scales, std::size_t tokens, std::size_t dim, float* logits,
                             std::size_t stride, Prefetch& prefetch) {
  const std::size_t lanes = hn::Lanes(hn::CappedTag<std::int32_t, kInt8KeyTile>());
  std::size_t t = 0;
  for (; t + 2 * lanes <= tokens; t += 2 * lanes) {
    ScoreTokens<kQ, 2>(queries, integers, codes, scales, t, dim, logits, stride);
    prefetch.Step();
  }
  for (; t < tokens; t += lanes) ScoreTokens<kQ, 1>(queries, integers, codes, scales, t, dim, logits, stride);
}

void ScoreTarget(const ByteScoreArgs& args) {
  const std::size_t n = args.queries, dim = args.dim, tokens = args.tokens, stride = args.stride;
  const auto* queries = reinterpret_cast<const Int16Row*>(args.prepared);
  const auto* integers = reinterpret_cast<const std::int16_t*>(queries + n);
#if HWY_TARGET == HWY_AVX3_DL
  if (Int8UsesTiles(n, dim) && tokens % 32 == 0) return ScoreInt8Tiles(args, queries, integers);
#endif
  const std::byte* codes = args.block;
  const auto* scales = reinterpret_cast<const std::uint16_t*>(codes + tokens * dim);  // even: dim is a multiple of 8
  float* logits = args.logits;
  Prefetch prefetch(args.next, args.next_bytes, tokens / (2 * hn::Lanes(hn::CappedTag<std::int32_t, kInt8KeyTile>())));
  std::size_t q = 0;
  for (; q + kQueryTile <= n; q += kQueryTile) {
    ScoreQueries<kQueryTile>(queries + q, integers + q * dim, codes, scales, tokens, dim, logits + q * stride, stride,
                             prefetch);
  }
  for (; q < n; ++q)
    ScoreQueries<1>(queries + q, integers + q * dim, codes, scales, tokens, dim, logits + q * stride, stride, prefetch);
}

}  // namespace kvant::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(ScoreTarget);

void ScoreInt8(const ByteScoreArgs& args) noexcept { HWY_DYNAMIC_DISPATCH(ScoreTarget)(args); }

}  // namespace kvant::kernels
#endif
