// Rounds of signs and Walsh-Hadamard mixing on 32 rows of 16-bit integers in columns ([dim][32], row r's number i at
// columns[i * 32 + r]); see lloyd/integer.h. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_HADAMARD16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_HADAMARD16_INL_H_
#undef KVANT_KERNELS_HADAMARD16_INL_H_
#else
#define KVANT_KERNELS_HADAMARD16_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/lloyd/integer.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using ColumnTag = hn::CappedTag<std::int16_t, kIntegerRows>;
using ColumnVec = hn::Vec<ColumnTag>;

template <bool kSaturate>
HWY_INLINE void Butterfly(ColumnVec& a, ColumnVec& b) {
  const ColumnVec sum = kSaturate ? hn::SaturatedAdd(a, b) : hn::Add(a, b);
  b = kSaturate ? hn::SaturatedSub(a, b) : hn::Sub(a, b);
#if HWY_ARCH_X86
  asm("" : "+v"(b.raw));  // else g++ 12 makes x + (b - a) of x - (a - b) and computes both differences
#endif
  a = sum;
}

/// The transform of kRadix vectors, distances growing.
template <std::size_t kRadix, bool kSaturate>
HWY_INLINE void Mix(ColumnVec (&v)[kRadix]) {
#pragma GCC unroll 5
  for (std::size_t h = 1; h < kRadix; h *= 2) {
#pragma GCC unroll 32
    for (std::size_t i = 0; i < kRadix; ++i) {
      if ((i & h) == 0) Butterfly<kSaturate>(v[i], v[i + h]);
    }
  }
}

/// Between two rounds: rows of factors, positive and negative, and the signs that choose.
struct Turn {
  const std::int16_t* factors = nullptr;  ///< [2][32]
  const std::uint32_t* signs = nullptr;   ///< [dim]

  HWY_INLINE const std::int16_t* Of(std::size_t i) const { return factors + (signs[i] >> 31) * kIntegerRows; }
};

/// One half of a round on kRadix columns at distance `step`; with a turn, also the same half of the next round.
template <std::size_t kRadix, bool kTurn, bool kSaturate>
HWY_INLINE void MixColumns(std::int16_t* HWY_RESTRICT x, std::size_t first, std::size_t step, const Turn& turn) {
  const ColumnTag d;
  for (std::size_t lane = 0; lane < kIntegerRows; lane += hn::Lanes(d)) {
    ColumnVec v[kRadix];
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kRadix; ++i) v[i] = hn::Load(d, x + (first + i * step) * kIntegerRows + lane);
    Mix<kRadix, kSaturate && !kTurn>(v);
    if constexpr (kTurn) {
#pragma GCC unroll 16
      for (std::size_t i = 0; i < kRadix; ++i) v[i] = hn::MulFixedPoint15(v[i], hn::Load(d, turn.Of(first + i * step) + lane));
      if (kSaturate && first == 0) v[0] = hn::Add(v[0], hn::Set(d, 128));
      Mix<kRadix, kSaturate>(v);
    }
#pragma GCC unroll 16
    for (std::size_t i = 0; i < kRadix; ++i) hn::Store(v[i], d, x + (first + i * step) * kIntegerRows + lane);
  }
}

/// A round is two halves: distances below kLow, and the others.
template <std::size_t kDim>
struct Halves {
  static constexpr std::size_t kLow = kDim == 256 ? 16 : 8;
  static constexpr std::size_t kHigh = kDim / kLow;

  template <bool kTurn, bool kSaturate>
  static HWY_INLINE void Low(std::int16_t* HWY_RESTRICT x, const Turn& turn) {
    for (std::size_t first = 0; first < kDim; first += kLow) MixColumns<kLow, kTurn, kSaturate>(x, first, 1, turn);
  }
  template <bool kTurn, bool kSaturate>
  static HWY_INLINE void High(std::int16_t* HWY_RESTRICT x, const Turn& turn) {
    for (std::size_t first = 0; first < kLow; ++first) MixColumns<kHigh, kTurn, kSaturate>(x, first, kLow, turn);
  }
};

/// The factors between rounds, each [2][32]: positive, then negative.
struct TurnFactors {
  alignas(64) std::int16_t first[2 * kIntegerRows];
  alignas(64) std::int16_t middle[2 * kIntegerRows];
  alignas(64) std::int16_t last[2 * kIntegerRows];
};

/// All rounds; the first one's signs are already in the columns. Every half but the first and the last is that of two rounds at
/// once, so the order of the halves alternates; it matters in the last round only, where sums saturate.
template <std::size_t kDim>
HWY_INLINE void RotateColumns(std::size_t rounds, const std::uint32_t* HWY_RESTRICT signs, const TurnFactors& factors,
                              std::int16_t* HWY_RESTRICT x) {
  using H = Halves<kDim>;
  bool low = rounds % 2 == 0;
  low ? H::template Low<false, false>(x, {}) : H::template High<false, false>(x, {});
  for (std::size_t round = 1; round + 1 < rounds; ++round) {
    low = !low;
    const Turn turn{round == 1 ? factors.first : factors.middle, signs + round * kDim};
    low ? H::template Low<true, false>(x, turn) : H::template High<true, false>(x, turn);
  }
  H::template High<true, true>(x, {rounds == 2 ? factors.first : factors.last, signs + (rounds - 1) * kDim});
  H::template Low<false, true>(x, {});
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
