// Rounds of signs and Walsh-Hadamard mixing on four queries of 16-bit integers: eight lanes to a query, its number i in lane i
// % 8 of column i / 8. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_QUERY_ROTATION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_QUERY_ROTATION_INL_H_
#undef KVANT_KERNELS_QUERY_ROTATION_INL_H_
#else
#define KVANT_KERNELS_QUERY_ROTATION_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/lloyd/hadamard16-inl.h"
#include "kernels/lloyd/query.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr std::size_t kRotatedQueries = kIntegerRows / kQueryLanes;  // 4

/// What becomes of four rotated queries.
struct QueryColumns {
  HWY_ALIGN std::int16_t columns[kMaxIntegerDim / kQueryLanes * kIntegerRows];
  HWY_ALIGN std::int16_t largest[kIntegerRows];  ///< magnitudes, lane by lane
};

/// Eight numbers of each of as many rows as a vector holds.
template <class D>
HWY_INLINE hn::Vec<D> LoadColumn(D d, const std::int16_t* HWY_RESTRICT rows, std::size_t stride) {
  const hn::FixedTag<std::int16_t, kQueryLanes> d8;
  constexpr std::size_t kRows = hn::MaxLanes(D()) / kQueryLanes;
  if constexpr (kRows == 1) {
    return hn::Load(d8, rows);
  } else if constexpr (kRows == 2) {
    return hn::Combine(d, hn::Load(d8, rows + stride), hn::Load(d8, rows));
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, hn::Combine(half, hn::Load(d8, rows + 3 * stride), hn::Load(d8, rows + 2 * stride)),
                       hn::Combine(half, hn::Load(d8, rows + stride), hn::Load(d8, rows)));
  }
}

/// Even lanes a + b, odd lanes a - b of each pair (a, b) of lanes of D; `swapped` holds (b, a).
template <class D>
HWY_INLINE ColumnVec MixPairs(D d, ColumnVec v, hn::Vec<D> swapped) {
  const ColumnTag d16;
  const ColumnVec other = hn::BitCast(d16, swapped);
  return hn::BitCast(d16, hn::OddEven(hn::BitCast(d, hn::Sub(other, v)), hn::BitCast(d, hn::Add(v, other))));
}

/// The transform of each query's eight lanes.
HWY_INLINE ColumnVec MixLanes(ColumnVec v) {
  const hn::Repartition<std::uint32_t, ColumnTag> d32;
  const hn::Repartition<std::uint64_t, ColumnTag> d64;
  v = MixPairs(ColumnTag(), v, hn::BitCast(ColumnTag(), hn::RotateRight<16>(hn::BitCast(d32, v))));
  v = MixPairs(d32, v, hn::Shuffle2301(hn::BitCast(d32, v)));
  return MixPairs(d64, v, hn::Shuffle01(hn::BitCast(d64, v)));
}

/// The same of all columns at half the cost, but lane u of column 8 h + s and lane s of column 8 h + u change places:
/// interleaving two columns puts numbers that are to be added into the same lane of two vectors, and one bit of the column's
/// number into the lane's.
template <std::size_t kColumns>
HWY_INLINE void MixAndTransposeLanes(ColumnVec (&v)[kColumns]) {
  const ColumnTag d;
#pragma GCC unroll 3
  for (std::size_t step = 4; step > 0; step /= 2) {
#pragma GCC unroll 32
    for (std::size_t c = 0; c < kColumns; ++c) {
      if ((c & step) != 0) continue;
      ColumnVec low = hn::InterleaveLower(d, v[c], v[c + step]), high = hn::InterleaveUpper(d, v[c], v[c + step]);
      Butterfly<false>(low, high);
      v[c] = low;
      v[c + step] = high;
    }
  }
}

/// All rounds of rows [4][dim]; the first one's signs are turned already. `turns` are QueryTurns.
template <std::size_t kColumns>
HWY_INLINE void RotateQueries(std::size_t rounds, const std::int16_t* HWY_RESTRICT turns, const std::int16_t* HWY_RESTRICT rows,
                              QueryColumns& q) {
  constexpr std::size_t kDim = kColumns * kQueryLanes;
  const ColumnTag d;
  for (std::size_t lane = 0; lane < kIntegerRows; lane += hn::Lanes(d)) {
    ColumnVec v[kColumns];
#pragma GCC unroll 32
    for (std::size_t c = 0; c < kColumns; ++c) v[c] = LoadColumn(d, rows + lane / kQueryLanes * kDim + c * kQueryLanes, kDim);
    for (std::size_t round = 0;; ++round) {
      Mix<kColumns, false>(v);
      const bool last = round + 1 == rounds;
      if (last && rounds % 2 == 1) {  // every column is where it was
#pragma GCC unroll 32
        for (std::size_t c = 0; c < kColumns; ++c) v[c] = MixLanes(v[c]);
      } else {
        MixAndTransposeLanes(v);
      }
      if (last) break;
      const std::int16_t* factors = turns + round * kDim;
#pragma GCC unroll 32
      for (std::size_t c = 0; c < kColumns; ++c) {
        v[c] = hn::MulFixedPoint15(v[c], hn::LoadDup128(d, factors + c * kQueryLanes));
      }
    }
    ColumnVec largest = hn::Zero(d);
#pragma GCC unroll 32
    for (std::size_t c = 0; c < kColumns; ++c) {
      largest = hn::Max(largest, hn::Abs(v[c]));
      hn::Store(v[c], d, q.columns + c * kIntegerRows + lane);
    }
    hn::Store(largest, d, q.largest + lane);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
