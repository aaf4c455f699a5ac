// Weights of attention to the integers that lloyd/accumulate.cc multiplies codes with: the token's scale goes in here, so a run
// of tokens needs one step for all. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_LLOYD_WEIGHTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_LLOYD_WEIGHTS_INL_H_
#undef KVANT_KERNELS_LLOYD_WEIGHTS_INL_H_
#else
#define KVANT_KERNELS_LLOYD_WEIGHTS_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>

#include "hwy/highway.h"
#include "kernels/lloyd/accumulate.h"
#include "kernels/lloyd/dot-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Words of a query's integer weights: one per quad of tokens, with 8 bits two (tokens 0 and 2, tokens 1 and 3).
template <std::uint32_t kBits>
inline constexpr std::size_t kWordsPerQuery = kWeightRun / (kBits == 8 ? 2 : 4);

/// Queries whose weights are rounded together.
inline constexpr std::size_t kWeightsTogether = 4;

/// The scratch of one run of tokens.
struct Run {
  float* scales;         ///< [kWeightRun]
  float* terms;          ///< [kWeightsTogether][kWeightRun]
  std::uint32_t* words;  ///< [queries][kWordsPerQuery]
  std::int32_t* totals;  ///< [queries], of the integer weights; only where centroids have an offset
  float* steps;          ///< [queries]; 0: all weights are 0
  std::byte* tiles;      ///< what tiles need, 64-byte aligned
};

/// Adding this to 0 <= x < 2^22 rounds x to an integer, ties to even, and leaves it in the low bits.
inline constexpr float kRoundToBits = 12582912.0f;  // 1.5 * 2^23

/// The lowest byte of each lane.
template <class D>
HWY_INLINE void StoreLowBytes([[maybe_unused]] D du, hn::Vec<D> v, std::uint8_t* HWY_RESTRICT to) {
#if HWY_TARGET == HWY_AVX3_DL
  // TruncateTo of Highway 1.0.3 picks the wrong lanes here.
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(v.raw));
#else
  const hn::Rebind<std::uint8_t, D> d8;
  hn::StoreU(hn::TruncateTo(d8, v), d8, to);
#endif
}

/// weights * scales of one query for a run of `count` tokens; returns the largest.
HWY_INLINE float Terms(const float* HWY_RESTRICT weights, std::size_t count, const float* HWY_RESTRICT scales,
                       float* HWY_RESTRICT terms) {
  const hn::CappedTag<float, 16> d;
  const std::size_t n = hn::Lanes(d);
  auto even = hn::Zero(d), odd = hn::Zero(d);
  std::size_t t = 0;
  for (; t + 2 * n <= count; t += 2 * n) {
    const auto a = hn::Mul(hn::LoadU(d, weights + t), hn::Load(d, scales + t));
    const auto b = hn::Mul(hn::LoadU(d, weights + t + n), hn::Load(d, scales + t + n));
    even = hn::Max(even, a);
    odd = hn::Max(odd, b);
    hn::Store(a, d, terms + t);
    hn::Store(b, d, terms + t + n);
  }
  if (t < count) {
    const auto a = hn::Mul(hn::LoadU(d, weights + t), hn::Load(d, scales + t));
    even = hn::Max(even, a);
    hn::Store(a, d, terms + t);
  }
  return hn::GetLane(hn::MaxOfLanes(d, hn::Max(even, odd)));
}

/// Integer weights of one query for a run: terms * factor, at most LloydWeightMax once rounded.
template <std::uint32_t kBits>
HWY_INLINE void RoundTerms(const float* HWY_RESTRICT terms, std::size_t count, float factor,
                           std::uint32_t* HWY_RESTRICT words) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const std::size_t n = hn::Lanes(d);
  for (std::size_t t = 0; t < count; t += n) {
    const auto scaled = hn::Mul(hn::Load(d, terms + t), hn::Set(d, factor));
    const auto bits = hn::BitCast(du, hn::Add(scaled, hn::Set(d, kRoundToBits)));
    if constexpr (kBits == 8) {
      // Of each quad of tokens: 0 and 2, then 1 and 3.
      const hn::Repartition<std::uint64_t, decltype(d)> d64;
      const hn::Half<decltype(d64)> half;
      const auto low = hn::And(bits, hn::Set(du, 0xFFFFu));
      const auto pairs = hn::BitCast(d64, hn::Or(low, hn::ShiftLeft<16>(hn::Shuffle1032(low))));
      hn::StoreU(hn::LowerHalf(half, hn::ConcatEven(d64, pairs, pairs)), half, reinterpret_cast<std::uint64_t*>(words + t / 2));
    } else {
      StoreLowBytes(du, bits, reinterpret_cast<std::uint8_t*>(words) + t);
    }
  }
}

/// Integer weights of all queries for a run of `count` <= kWeightRun tokens, a multiple of 16. A few queries at a time:
/// the maxima and divisions of one are waited for while the others' go on.
template <std::uint32_t kBits>
HWY_INLINE void RoundWeights(const ByteAccumulateArgs& args, std::size_t first, std::size_t count, const Run& run) {
  constexpr auto kLimit = static_cast<float>(LloydWeightMax(kBits));
  for (std::size_t query = 0; query < args.queries; query += kWeightsTogether) {
    const std::size_t n = std::min(kWeightsTogether, args.queries - query);
    float factors[kWeightsTogether] = {};
    for (std::size_t q = 0; q < n; ++q) {
      const float top = Terms(args.weights + (query + q) * args.stride + first, count, run.scales, run.terms + q * kWeightRun);
      const bool none = !(top >= 1e-30f);
      factors[q] = none ? 0.0f : kLimit / top;
      run.steps[query + q] = none ? 0.0f : top / kLimit;
    }
    for (std::size_t q = 0; q < n; ++q) {
      std::uint32_t* words = run.words + (query + q) * kWordsPerQuery<kBits>;
      RoundTerms<kBits>(run.terms + q * kWeightRun, count, factors[q], words);
      if constexpr (kHasNeonDot && kBits != 8) {
        const auto* bytes = reinterpret_cast<const std::uint8_t*>(words);
        run.totals[query + q] = std::accumulate(bytes, bytes + count, 0);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
