// Per-target body of hadamard.h, for kernels that rotate as one of their steps. Each lane's arithmetic is that of
// reference/hadamard.h, in the same order. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_HADAMARD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_HADAMARD_INL_H_
#undef KVANT_KERNELS_HADAMARD_INL_H_
#else
#define KVANT_KERNELS_HADAMARD_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/rotation/hadamard.h"
#include "kernels/rotation/paley.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// At most one row of 16 lanes; narrower targets walk a row in several steps.
using LaneTag = hn::CappedTag<float, kLanes>;
using LaneVec = hn::Vec<LaneTag>;
using LaneTagU = hn::RebindToUnsigned<LaneTag>;
using LaneTagI = hn::RebindToSigned<LaneTag>;
using LaneVecI = hn::Vec<LaneTagI>;

/// Row `i` of the columns that start at `x`, its sign turned if `flip` says so.
template <bool kFlip>
HWY_INLINE LaneVec LoadFlipped(LaneTag d, const float* HWY_RESTRICT x, std::size_t i, const std::uint32_t* HWY_RESTRICT flip) {
  const LaneVec v = hn::Load(d, x + i * kLanes);
  if constexpr (kFlip) {
    return hn::Xor(v, hn::BitCast(d, hn::Set(hn::RebindToUnsigned<LaneTag>(), flip[i])));
  } else {
    return v;
  }
}

/// Three butterfly stages at distances h, 2h and 4h over `rows` rows.
template <bool kFlip>
HWY_INLINE void Radix8(LaneTag d, float* HWY_RESTRICT x, std::size_t rows, std::size_t h,
                       const std::uint32_t* HWY_RESTRICT flip) {
  for (std::size_t block = 0; block < rows; block += 8 * h) {
    for (std::size_t i = block; i < block + h; ++i) {
      const LaneVec a0 = LoadFlipped<kFlip>(d, x, i, flip), a1 = LoadFlipped<kFlip>(d, x, i + h, flip);
      const LaneVec a2 = LoadFlipped<kFlip>(d, x, i + 2 * h, flip), a3 = LoadFlipped<kFlip>(d, x, i + 3 * h, flip);
      const LaneVec a4 = LoadFlipped<kFlip>(d, x, i + 4 * h, flip), a5 = LoadFlipped<kFlip>(d, x, i + 5 * h, flip);
      const LaneVec a6 = LoadFlipped<kFlip>(d, x, i + 6 * h, flip), a7 = LoadFlipped<kFlip>(d, x, i + 7 * h, flip);
      const LaneVec b0 = hn::Add(a0, a1), b1 = hn::Sub(a0, a1), b2 = hn::Add(a2, a3), b3 = hn::Sub(a2, a3);
      const LaneVec b4 = hn::Add(a4, a5), b5 = hn::Sub(a4, a5), b6 = hn::Add(a6, a7), b7 = hn::Sub(a6, a7);
      const LaneVec c0 = hn::Add(b0, b2), c1 = hn::Add(b1, b3), c2 = hn::Sub(b0, b2), c3 = hn::Sub(b1, b3);
      const LaneVec c4 = hn::Add(b4, b6), c5 = hn::Add(b5, b7), c6 = hn::Sub(b4, b6), c7 = hn::Sub(b5, b7);
      hn::Store(hn::Add(c0, c4), d, x + i * kLanes);
      hn::Store(hn::Add(c1, c5), d, x + (i + h) * kLanes);
      hn::Store(hn::Add(c2, c6), d, x + (i + 2 * h) * kLanes);
      hn::Store(hn::Add(c3, c7), d, x + (i + 3 * h) * kLanes);
      hn::Store(hn::Sub(c0, c4), d, x + (i + 4 * h) * kLanes);
      hn::Store(hn::Sub(c1, c5), d, x + (i + 5 * h) * kLanes);
      hn::Store(hn::Sub(c2, c6), d, x + (i + 6 * h) * kLanes);
      hn::Store(hn::Sub(c3, c7), d, x + (i + 7 * h) * kLanes);
    }
  }
}

template <bool kFlip>
HWY_INLINE void Radix4(LaneTag d, float* HWY_RESTRICT x, std::size_t rows, std::size_t h,
                       const std::uint32_t* HWY_RESTRICT flip) {
  for (std::size_t block = 0; block < rows; block += 4 * h) {
    for (std::size_t i = block; i < block + h; ++i) {
      const LaneVec a0 = LoadFlipped<kFlip>(d, x, i, flip), a1 = LoadFlipped<kFlip>(d, x, i + h, flip);
      const LaneVec a2 = LoadFlipped<kFlip>(d, x, i + 2 * h, flip), a3 = LoadFlipped<kFlip>(d, x, i + 3 * h, flip);
      const LaneVec b0 = hn::Add(a0, a1), b1 = hn::Sub(a0, a1), b2 = hn::Add(a2, a3), b3 = hn::Sub(a2, a3);
      hn::Store(hn::Add(b0, b2), d, x + i * kLanes);
      hn::Store(hn::Add(b1, b3), d, x + (i + h) * kLanes);
      hn::Store(hn::Sub(b0, b2), d, x + (i + 2 * h) * kLanes);
      hn::Store(hn::Sub(b1, b3), d, x + (i + 3 * h) * kLanes);
    }
  }
}

template <bool kFlip>
HWY_INLINE void Radix2(LaneTag d, float* HWY_RESTRICT x, std::size_t rows, std::size_t h,
                       const std::uint32_t* HWY_RESTRICT flip) {
  for (std::size_t block = 0; block < rows; block += 2 * h) {
    for (std::size_t i = block; i < block + h; ++i) {
      const LaneVec a0 = LoadFlipped<kFlip>(d, x, i, flip), a1 = LoadFlipped<kFlip>(d, x, i + h, flip);
      hn::Store(hn::Add(a0, a1), d, x + i * kLanes);
      hn::Store(hn::Sub(a0, a1), d, x + (i + h) * kLanes);
    }
  }
}

/// The fast Walsh-Hadamard transform of order rows / h over rows at distance h, in order of growing distance whatever the
/// radix.
template <bool kFlip>
HWY_INLINE void Sylvester(LaneTag d, float* HWY_RESTRICT x, std::size_t rows, std::size_t h,
                          const std::uint32_t* HWY_RESTRICT flip) {
  bool first = kFlip;
  while (h < rows) {
    const std::size_t left = rows / h;
    if (left >= 8) {
      first ? Radix8<kFlip>(d, x, rows, h, flip) : Radix8<false>(d, x, rows, h, flip);
      h *= 8;
    } else if (left == 4) {
      first ? Radix4<kFlip>(d, x, rows, h, flip) : Radix4<false>(d, x, rows, h, flip);
      h *= 4;
    } else {
      first ? Radix2<kFlip>(d, x, rows, h, flip) : Radix2<false>(d, x, rows, h, flip);
      h *= 2;
    }
    first = false;
  }
}

/// Paley's matrix of order kOrder on each run of kOrder adjacent rows.
template <std::size_t kOrder, bool kFlip>
HWY_INLINE void Paley(LaneTag d, float* HWY_RESTRICT x, std::size_t rows,
                      const std::array<std::array<std::uint8_t, kOrder / 4>, kOrder>& patterns,
                      const std::uint32_t* HWY_RESTRICT flip) {
  constexpr std::size_t kGroups = kOrder / 4;
  const std::size_t n = hn::Lanes(d);
  HWY_ALIGN float sums[kGroups * 16 * kLanes];  // [group][pattern][lanes]
  for (std::size_t block = 0; block < rows; block += kOrder) {
    for (std::size_t k = 0; k < kGroups; ++k) {
      const std::size_t i = block + 4 * k;
      const LaneVec a = LoadFlipped<kFlip>(d, x, i, flip), b = LoadFlipped<kFlip>(d, x, i + 1, flip);
      const LaneVec c = LoadFlipped<kFlip>(d, x, i + 2, flip), e = LoadFlipped<kFlip>(d, x, i + 3, flip);
      const LaneVec ab[2] = {hn::Add(a, b), hn::Sub(a, b)};
      const LaneVec ce[2] = {hn::Add(c, e), hn::Sub(c, e)};
      for (std::size_t p = 0; p < 16; p += 2) {  // signs of b, c, e; a is positive
        const bool minus_b = (p & 2) != 0, minus_c = (p & 4) != 0, minus_e = (p & 8) != 0;
        const LaneVec left = ab[minus_b ? 1 : 0], right = ce[minus_c != minus_e ? 1 : 0];
        const LaneVec sum = minus_c ? hn::Sub(left, right) : hn::Add(left, right);
        hn::Store(sum, d, sums + (k * 16 + p) * n);
        hn::Store(hn::Neg(sum), d, sums + (k * 16 + (p ^ 15)) * n);
      }
    }
    for (std::size_t row = 0; row < kOrder; ++row) {
      LaneVec sum = hn::Load(d, sums + patterns[row][0] * n);
      for (std::size_t k = 1; k < kGroups; ++k) sum = hn::Add(sum, hn::Load(d, sums + (k * 16 + patterns[row][k]) * n));
      hn::Store(sum, d, x + (block + row) * kLanes);
    }
  }
}

/// Turns signs.
HWY_INLINE void FlipSigns(LaneTag d, float* HWY_RESTRICT x, std::size_t rows, const std::uint32_t* HWY_RESTRICT flip) {
  for (std::size_t i = 0; i < rows; ++i) hn::Store(LoadFlipped<true>(d, x, i, flip), d, x + i * kLanes);
}

/// The overlapping scheme's step after the signs: mixing of 2^k rows from `first` on, orthonormal.
HWY_INLINE void MixRun(LaneTag d, float* HWY_RESTRICT x, std::size_t first, std::size_t power, float factor) {
  float* HWY_RESTRICT run = x + first * kLanes;
  Sylvester<false>(d, run, power, 1, nullptr);
  const LaneVec f = hn::Set(d, factor);
  for (std::size_t i = 0; i < power; ++i) hn::Store(hn::Mul(hn::Load(d, run + i * kLanes), f), d, run + i * kLanes);
}

/// Turns the halves against each other by 45 degrees; its own inverse.
HWY_INLINE void MixHalves(LaneTag d, float* HWY_RESTRICT x, std::size_t rows) {
  const LaneVec f = hn::Set(d, 0.70710678f);
  for (std::size_t i = 0; i < rows / 2; ++i) {
    const LaneVec a = hn::Load(d, x + i * kLanes), b = hn::Load(d, x + (i + rows / 2) * kLanes);
    hn::Store(hn::Mul(hn::Add(a, b), f), d, x + i * kLanes);
    hn::Store(hn::Mul(hn::Sub(a, b), f), d, x + (i + rows / 2) * kLanes);
  }
}

HWY_INLINE float RunFactor(std::size_t power) {
  float factor = 1.0f;
  for (; power >= 4; power /= 4) factor *= 0.5f;
  return power == 2 ? factor * 0.70710678f : factor;
}

HWY_INLINE void HadamardColumns(const HadamardShape& shape, std::size_t rounds, const std::uint32_t* HWY_RESTRICT signs,
                                float* HWY_RESTRICT columns) {
  const LaneTag d;
  for (std::size_t lane = 0; lane < kLanes; lane += hn::Lanes(d)) {
    float* HWY_RESTRICT x = columns + lane;
    for (std::size_t round = 0; round < rounds; ++round) {
      if (shape.core == 0) {
        for (std::size_t half = 0; half < 2; ++half) {
          FlipSigns(d, x, shape.dim, signs + (2 * round + half) * shape.dim);
          MixRun(d, x, half == 0 ? 0 : shape.dim - shape.power, shape.power, RunFactor(shape.power));
          MixHalves(d, x, shape.dim);
        }
        continue;
      }
      const std::uint32_t* flip = signs + round * shape.dim;
      if (shape.core == 1) {
        Sylvester<true>(d, x, shape.dim, 1, flip);
        continue;
      }
      if (shape.core == 12) {
        Paley<12, true>(d, x, shape.dim, kPaley12.forward, flip);
      } else {
        Paley<20, true>(d, x, shape.dim, kPaley20.forward, flip);
      }
      Sylvester<false>(d, x, shape.dim, shape.core, nullptr);
    }
  }
}

HWY_INLINE void HadamardInverseColumns(const HadamardShape& shape, std::size_t rounds, const std::uint32_t* HWY_RESTRICT signs,
                                       float* HWY_RESTRICT columns) {
  const LaneTag d;
  for (std::size_t lane = 0; lane < kLanes; lane += hn::Lanes(d)) {
    float* HWY_RESTRICT x = columns + lane;
    for (std::size_t round = rounds; round-- > 0;) {
      if (shape.core == 0) {
        for (std::size_t half = 2; half-- > 0;) {
          MixHalves(d, x, shape.dim);
          MixRun(d, x, half == 0 ? 0 : shape.dim - shape.power, shape.power, RunFactor(shape.power));
          FlipSigns(d, x, shape.dim, signs + (2 * round + half) * shape.dim);
        }
        continue;
      }
      Sylvester<false>(d, x, shape.dim, shape.core, nullptr);
      if (shape.core == 12) Paley<12, false>(d, x, shape.dim, kPaley12.transposed, nullptr);
      if (shape.core == 20) Paley<20, false>(d, x, shape.dim, kPaley20.transposed, nullptr);
      FlipSigns(d, x, shape.dim, signs + round * shape.dim);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
