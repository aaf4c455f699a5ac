// Weights of attention to the integers that numbers of codes are multiplied with: the token's scale goes in here, so a run of
// tokens needs one step for all. No include guard by design: see Highway's foreach_target.
//
// For each query and each run, weight * scale is rounded to an integer in [0, largest] times one step, the run's largest term /
// largest: the rounding error of a run is at most step / 2 per token. With 255 its square is at most 128 / (12 * 255^2) of the
// largest term's, which is below 2 % of the distortion of 4-bit Lloyd codes (4095 and codes of 8 bits: 2 % as well).
#if defined(KVANT_KERNELS_BYTES_WEIGHTS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_BYTES_WEIGHTS_INL_H_
#undef KVANT_KERNELS_BYTES_WEIGHTS_INL_H_
#else
#define KVANT_KERNELS_BYTES_WEIGHTS_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/bytes/attend.h"
#include "kernels/bytes/expander-inl.h"
#include "kernels/ufloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Queries whose weights are rounded together.
inline constexpr std::size_t kWeightsTogether = 4;

/// What an expander's weights are rounded to.
template <class E>
constexpr int WeightMax() {
  if constexpr (E::kWords) {
    return E::kWeightMax;
  } else {
    return kByteWeightMax;
  }
}
/// Tokens that share a step; 0: those of the block.
template <class E>
constexpr std::size_t WeightRun() {
  if constexpr (E::kWords) {
    return E::kWeightRun;
  } else {
    return kWeightRun;
  }
}

/// The scratch of one run of tokens.
template <class E>
struct Run {
  std::size_t block = 0;           ///< tokens of the block
  std::size_t first = 0;           ///< its first token
  std::size_t tokens = 0;          ///< most(), or fewer at the end of a block
  float* scales = nullptr;         ///< [most()]
  float* terms = nullptr;          ///< [kWeightsTogether][most()]
  std::uint32_t* words = nullptr;  ///< [queries][row_words()]
  std::int32_t* totals = nullptr;  ///< [queries], of the integer weights; only where numbers have an offset
  float* steps = nullptr;          ///< [queries]; 0: all weights are 0
  std::byte* tiles = nullptr;      ///< what tiles need, 64-byte aligned

  HWY_INLINE explicit Run(const ByteAccumulateArgs& args) : block(args.tokens) {
    const std::size_t rows = (args.queries + 15) / 16 * 16;
    scales = reinterpret_cast<float*>(args.scratch);
    terms = scales + most();
    words = reinterpret_cast<std::uint32_t*>(terms + kWeightsTogether * most());
    totals = reinterpret_cast<std::int32_t*>(words + rows * row_words());
    steps = reinterpret_cast<float*>(totals + rows);
    const std::size_t used = static_cast<std::size_t>(reinterpret_cast<std::byte*>(steps + rows) - args.scratch);
    tiles = args.scratch + (used + 63) / 64 * 64;
  }

  /// Tokens of a run. (Known to the compiler, where not the block's, so that addresses of all queries share a register.)
  [[nodiscard]] HWY_INLINE std::size_t most() const { return WeightRun<E>() == 0 ? block : WeightRun<E>(); }
  /// Words of a query's integer weights.
  [[nodiscard]] HWY_INLINE std::size_t row_words() const { return most() / 4 * kWordsPerFour<E>; }
};

/// A run without a larger term counts as zeros: its factor would leave f32's range.
inline constexpr float kSmallestTerm = 1e-30f;

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

/// Integer weights of one query for a run: terms * factor, at most WeightMax once rounded. Returns their total where numbers
/// have an offset.
template <class E>
HWY_INLINE std::int32_t RoundTerms(const float* HWY_RESTRICT terms, std::size_t count, float factor,
                                   std::uint32_t* HWY_RESTRICT words) {
  const hn::CappedTag<float, 16> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::RebindToSigned<decltype(d)> di;
  const std::size_t n = hn::Lanes(d);
  auto total = hn::Zero(du);
  for (std::size_t t = 0; t < count; t += n) {
    const auto scaled = hn::Mul(hn::Load(d, terms + t), hn::Set(d, factor));
    const auto bits = hn::BitCast(du, hn::Add(scaled, hn::Set(d, kRoundToBits)));
    const auto low = hn::And(bits, hn::Set(du, 0xFFFFu));
    if constexpr (AccumulateOffset<E>() != 0) total = hn::Add(total, low);
    if constexpr (E::kWords) {
      const hn::Rebind<std::int16_t, decltype(d)> d16;
      const auto integers = hn::TableLookupBytes(hn::DemoteTo(d16, hn::BitCast(di, low)), OrderOfFours(d16));
      hn::StoreU(integers, d16, reinterpret_cast<std::int16_t*>(words) + t);
    } else {
      StoreLowBytes(du, bits, reinterpret_cast<std::uint8_t*>(words) + t);
    }
  }
  if constexpr (AccumulateOffset<E>() == 0) return 0;
  return hn::GetLane(hn::SumOfLanes(di, hn::BitCast(di, total)));
}

/// Integer weights of all queries for a run that begins at token `first`. A few queries at a time: the maxima and divisions of
/// one are waited for while the others' go on.
template <class E>
HWY_INLINE void RoundWeights(const ByteAccumulateArgs& args, const std::uint16_t* HWY_RESTRICT scales, std::size_t first,
                             Run<E>& run) {
  const hn::CappedTag<float, 16> d;
  constexpr auto kLimit = static_cast<float>(WeightMax<E>());
  const std::size_t count = std::min(run.most(), args.tokens - first);
  run.first = first;
  run.tokens = count;
  for (std::size_t t = 0; t < count; t += hn::Lanes(d)) hn::Store(LoadUfloat16(d, scales + first + t), d, run.scales + t);
  for (std::size_t query = 0; query < args.queries; query += kWeightsTogether) {
    const std::size_t n = std::min(kWeightsTogether, args.queries - query);
    float factors[kWeightsTogether] = {};
    for (std::size_t q = 0; q < n; ++q) {
      const float top = Terms(args.weights + (query + q) * args.stride + first, count, run.scales, run.terms + q * run.most());
      const bool none = !(top >= kSmallestTerm);
      factors[q] = none ? 0.0f : kLimit / top;
      run.steps[query + q] = none ? 0.0f : top / kLimit;
    }
    for (std::size_t q = 0; q < n; ++q) {
      const std::int32_t total =
          RoundTerms<E>(run.terms + q * run.most(), count, factors[q], run.words + (query + q) * run.row_words());
      if constexpr (AccumulateOffset<E>() != 0) run.totals[query + q] = total;
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
