#include "kernels/vector/encode.h"

#include <cmath>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/vector/encode.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/bytes/factors-inl.h"
#include "kernels/rotation/hadamard-inl.h"
#include "kernels/rotation/transpose-inl.h"
#include "kernels/ufloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using LaneTag8 = hn::Repartition<std::uint8_t, LaneTag>;
using LaneTag16 = hn::Repartition<std::int16_t, LaneTag>;

/// The codebook as the search reads it. A sub-vector's value for word w is 256 times its score, plus w: the largest value holds
/// the largest score and its word.
struct SearchWords {
  std::uint32_t* low;     ///< [256]: numbers 0 and 1, times 256, as 16-bit integers
  std::uint32_t* high;    ///< [256]: numbers 2 and 3
  std::int32_t* start;    ///< [256]: w - 256 * kVectorSteps |word|^2 / 2
  std::int32_t* squares;  ///< [256]: |word|^2

  HWY_INLINE SearchWords(const VectorCodebook& codebook, std::uint32_t* scratch)
      : low(scratch),
        high(scratch + kVectorWords),
        start(reinterpret_cast<std::int32_t*>(scratch + 2 * kVectorWords)),
        squares(start + kVectorWords) {
    for (std::size_t w = 0; w < kVectorWords; ++w) {
      std::int32_t n[kVectorDims];
      squares[w] = 0;
      for (std::size_t j = 0; j < kVectorDims; ++j) {
        n[j] = codebook.numbers[j][w];
        squares[w] += n[j] * n[j];
      }
      const auto pair = [](std::int32_t a, std::int32_t b) {
        return (static_cast<std::uint32_t>(256 * a) & 0xFFFFu) | static_cast<std::uint32_t>(256 * b) << 16;
      };
      low[w] = pair(n[0], n[1]);
      high[w] = pair(n[2], n[3]);
      start[w] = static_cast<std::int32_t>(w) - 256 * kVectorSteps / 2 * squares[w];
    }
  }
};

/// Divides by the smooth factors (if any) and returns the squared norms, in four running sums.
HWY_INLINE LaneVec Smooth(LaneTag d, std::size_t dim, const float* HWY_RESTRICT smooth, float* HWY_RESTRICT x) {
  LaneVec sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  for (std::size_t i = 0; i < dim; i += 4) {
    for (std::size_t j = 0; j < 4; ++j) {
      LaneVec v = hn::Load(d, x + (i + j) * kLanes);
      if (smooth != nullptr) {
        v = hn::Div(v, hn::Set(d, smooth[i + j]));
        hn::Store(v, d, x + (i + j) * kLanes);
      }
      sums[j] = hn::Add(sums[j], hn::Mul(v, v));
    }
  }
  return hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3]));
}

/// Two columns of floats as steps, in pairs of 16-bit integers.
HWY_INLINE hn::Vec<LaneTag16> StepPairs(LaneTag d, const float* HWY_RESTRICT x, LaneVec to_steps) {
  const LaneTagI di;
  const auto steps = [&](std::size_t i) HWY_ATTR {
    const LaneVec most = hn::Set(d, static_cast<float>(kVectorStepsMax));
    const LaneVec scaled = hn::Mul(hn::Load(d, x + i * kLanes), to_steps);
    return hn::NearestInt(hn::Max(hn::Min(scaled, most), hn::Neg(most)));
  };
  return hn::BitCast(LaneTag16(), hn::Or(hn::And(steps(0), hn::Set(di, 0xFFFF)), hn::ShiftLeft<16>(steps(1))));
}

/// What the 16 rows' scales are computed from.
struct RowSums {
  LaneVecI dot;     ///< <z, c>
  LaneVecI square;  ///< |c|^2
};

/// Codes of four sub-vectors, in the four bytes of each lane; adds to the sums.
HWY_INLINE LaneVecI NearestWords(LaneTag d, const SearchWords& words, const float* HWY_RESTRICT x, LaneVec to_steps,
                                 RowSums& sums) {
  const LaneTagI di;
  const LaneTag8 d8;
  const LaneTag16 d16;
  hn::Vec<LaneTag16> low[4], high[4];
  LaneVecI best[4];
#pragma GCC unroll 4
  for (std::size_t s = 0; s < 4; ++s) {
    low[s] = StepPairs(d, x + kVectorDims * s * kLanes, to_steps);
    high[s] = StepPairs(d, x + (kVectorDims * s + 2) * kLanes, to_steps);
    best[s] = hn::Set(di, INT32_MIN);
  }
  for (std::size_t w = 0; w < kVectorWords; ++w) {
    const auto word_low = hn::BitCast(d16, hn::Set(di, static_cast<std::int32_t>(words.low[w])));
    const auto word_high = hn::BitCast(d16, hn::Set(di, static_cast<std::int32_t>(words.high[w])));
    const LaneVecI start = hn::Set(di, words.start[w]);
#pragma GCC unroll 4
    for (std::size_t s = 0; s < 4; ++s) {
      best[s] = hn::Max(best[s], DotPair(d8, DotPair(d8, start, low[s], word_low), high[s], word_high));
    }
  }
  LaneVecI codes = hn::Zero(di);
#pragma GCC unroll 4
  for (std::size_t s = 0; s < 4; ++s) {
    const LaneVecI word = hn::And(best[s], hn::Set(di, 0xFF));
    const LaneVecI square = hn::GatherIndex(di, words.squares, word);
    // score = <z, c> - kVectorSteps / 2 |c|^2.
    const LaneVecI dot = hn::Add(hn::ShiftRight<8>(best[s]), hn::Mul(square, hn::Set(di, kVectorSteps / 2)));
    sums.dot = hn::Add(sums.dot, dot);
    sums.square = hn::Add(sums.square, square);
    codes = hn::Or(codes, hn::ShiftLeftSame(word, static_cast<int>(8 * s)));
  }
  return codes;
}

/// A row whose words point nowhere, or away from it, gets 0.
HWY_INLINE LaneVec Scale(LaneTag d, const VectorEncoding& how, const VectorConstants& constants, LaneVec norm,
                         const RowSums& sums) {
  const LaneVec dot = hn::ConvertTo(d, sums.dot), square = hn::ConvertTo(d, sums.square);
  const LaneVec scale = how.scale == LloydScale::kLeastSquares
                            ? hn::Div(hn::Mul(hn::Mul(norm, dot), hn::Set(d, constants.least_squares)), square)
                            : hn::Div(hn::Mul(norm, hn::Set(d, constants.unbiased)), dot);
  return hn::IfThenElseZero(hn::Gt(dot, hn::Zero(d)), scale);
}

/// Codes of 16 rows to where they lie from row `first` on. Those of sub-vectors 4 i to 4 i + 3 stand in column 16 i.
HWY_INLINE void StoreCodes(LloydLayout layout, std::size_t dim, std::size_t first, const float* HWY_RESTRICT columns,
                           std::uint8_t* HWY_RESTRICT block) {
  const hn::FixedTag<std::uint8_t, 16> d8;
  HWY_ALIGN static constexpr std::uint8_t kTurn[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  const auto turn = hn::Load(d8, kTurn);
  const bool keys = layout == LloydLayout::kKeys;
  const auto* bytes = reinterpret_cast<const std::uint8_t*>(columns);
  for (std::size_t quad = 0; quad < 4; ++quad) {
    for (std::size_t i = 0; i < dim / 16; ++i) {
      const auto four = hn::Load(d8, bytes + (16 * i * kLanes + 4 * quad) * sizeof(float));  // 4 rows of 4 sub-vectors
      std::uint8_t* to = block + VectorCodeAt(layout, dim, first + 4 * quad, 4 * i);
      hn::Store(keys ? four : hn::TableLookupBytes(four, turn), d8, to);
    }
  }
}

std::size_t EncodeTarget(const VectorEncoding& how, const RowsView& rows, std::uint8_t* block, std::byte* scratch) {
  const LaneTag d;
  const LaneTagI di;
  const LaneTagU du;
  const std::size_t dim = rows.dim;
  const VectorConstants constants = VectorConstantsOf(how);
  auto* HWY_RESTRICT columns = reinterpret_cast<float*>(scratch);
  const SearchWords words(*how.codebook, reinterpret_cast<std::uint32_t*>(columns + dim * kLanes));
  alignas(64) float squares[kLanes];
  alignas(64) std::uint32_t scales[kLanes];
  auto* stored = reinterpret_cast<std::uint16_t*>(block + VectorCodesBytes(dim, rows.count));
  for (std::size_t first = 0; first < rows.count; first += kLanes) {
    LoadColumnsOf(rows, first, kLanes, columns);
    for (std::size_t lane = 0; lane < kLanes; lane += hn::Lanes(d)) {
      hn::Store(Smooth(d, dim, how.smooth, columns + lane), d, squares + lane);
    }
    HadamardColumns(how.map.shape, how.map.rounds, how.map.signs, columns);
    bool fine = true;
    for (std::size_t lane = 0; lane < kLanes; lane += hn::Lanes(d)) {
      const LaneVec square = hn::Load(d, squares + lane);
      const auto tiny = hn::Lt(square, hn::Set(d, kLloydTinySquare));
      const LaneVec norm = hn::Sqrt(square);
      const LaneVec to_steps = hn::IfThenZeroElse(tiny, hn::Div(hn::Set(d, constants.to_steps), norm));
      RowSums sums{hn::Zero(di), hn::Zero(di)};
      for (std::size_t i = 0; i < dim; i += 16) {
        float* x = columns + i * kLanes + lane;
        const LaneVecI codes = NearestWords(d, words, x, to_steps, sums);
        // Over a column that is no longer needed.
        hn::Store(hn::BitCast(du, codes), du, reinterpret_cast<std::uint32_t*>(columns) + i * kLanes + lane);
      }
      const LaneVec scale = hn::IfThenZeroElse(tiny, Scale(d, how, constants, norm, sums));
      // A norm that is not finite may have left any codes, and so any scale.
      const LaneVec overflow = hn::Set(d, kUfloat16Overflow);
      const LaneVec decisive = hn::IfThenElse(hn::Lt(norm, overflow), scale, norm);
      fine = fine && hn::AllTrue(d, hn::Lt(decisive, overflow));
      hn::Store(ToUfloat16(d, scale), du, scales + lane);
      hn::Store(decisive, d, squares + lane);
    }
    if (!fine) {
      std::size_t bad = 0;
      while (bad + 1 < kLanes && squares[bad] < kUfloat16Overflow) ++bad;
      return first + bad;
    }
    for (std::size_t i = 0; i < kLanes; ++i) stored[first + i] = static_cast<std::uint16_t>(scales[i]);
    StoreCodes(how.layout, dim, first, columns, block);
  }
  return rows.count;
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(EncodeTarget);

VectorConstants VectorConstantsOf(const VectorEncoding& how) noexcept {
  const double unit = how.codebook->unit;
  const auto dim = static_cast<double>(how.map.shape.dim);
  return {static_cast<float>(kVectorSteps * unit * std::sqrt(dim) / how.map.shape.gain(how.map.rounds)),
          static_cast<float>(kVectorSteps * unit * unit * dim), static_cast<float>(1.0 / kVectorSteps)};
}

std::size_t VectorEncode(const VectorEncoding& how, const RowsView& rows, std::uint8_t* block, std::byte* scratch) noexcept {
  return HWY_DYNAMIC_DISPATCH(EncodeTarget)(how, rows, block, scratch);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
