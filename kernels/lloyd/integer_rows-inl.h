// Rows of any element type -> columns of 16-bit integers for lloyd/hadamard16-inl.h, with the rows' squared norms; the first
// step of lloyd/integer.h. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_LLOYD_INTEGER_ROWS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_LLOYD_INTEGER_ROWS_INL_H_
#undef KVANT_KERNELS_LLOYD_INTEGER_ROWS_INL_H_
#else
#define KVANT_KERNELS_LLOYD_INTEGER_ROWS_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include <kvant/tensor.h>

#include "hwy/highway.h"
#include "kernels/lloyd/encode.h"
#include "kernels/lloyd/hadamard16-inl.h"
#include "kernels/raw/rows-inl.h"
#include "kernels/rotation/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Which rows stand in which columns: columns are 4 blocks of two quads, and quad h of block b begins with row
/// first + b * block + h * quad.
struct RowOrder {
  std::size_t first = 0;
  std::size_t block = 0;
  std::size_t quad = 0;

  [[nodiscard]] HWY_INLINE std::size_t RowOf(std::size_t column) const {
    return first + column / 8 * block + column / 4 % 2 * quad + column % 4;
  }
};

using RowTag = hn::CappedTag<float, 16>;
using RowVec = hn::Vec<RowTag>;
inline constexpr std::size_t kBlockRows = 8;

/// Widens a row into `out`, its mean subtracted, and stores 16 sums of squares: sum j of numbers j, j + 16, ...
template <typename T, bool kMean>
HWY_INLINE void WidenRow(const T* HWY_RESTRICT row, std::size_t dim, const float* HWY_RESTRICT mean, float* HWY_RESTRICT out,
                         float* HWY_RESTRICT sums) {
  const RowTag d;
  constexpr std::size_t kWidth = hn::MaxLanes(RowTag());
  constexpr std::size_t kParts = 16 / kWidth;
  RowVec squares[kParts];
#pragma GCC unroll 4
  for (std::size_t part = 0; part < kParts; ++part) squares[part] = hn::Zero(d);
#pragma GCC unroll 2
  for (std::size_t i = 0; i < dim; i += 16) {
#pragma GCC unroll 4
    for (std::size_t part = 0; part < kParts; ++part) {
      const std::size_t at = i + part * kWidth;
      RowVec v = LoadFloats(d, row + at);
      if constexpr (kMean) v = hn::Sub(v, hn::LoadU(d, mean + at));
      hn::Store(v, d, out + at);
      squares[part] = hn::Add(squares[part], hn::Mul(v, v));
    }
  }
#pragma GCC unroll 4
  for (std::size_t part = 0; part < kParts; ++part) hn::Store(squares[part], d, sums + part * kWidth);
}

/// Sums of 16 for each of 4 rows.
HWY_INLINE QuadVec SumRows(const float* HWY_RESTRICT sums) {
  const QuadTag d;
  QuadVec quads[4];
  for (std::size_t r = 0; r < 4; ++r) {
    const float* s = sums + 16 * r;
    quads[r] = hn::Add(hn::Add(hn::Load(d, s), hn::Load(d, s + 4)), hn::Add(hn::Load(d, s + 8), hn::Load(d, s + 12)));
  }
  TransposeQuad(d, quads[0], quads[1], quads[2], quads[3]);
  return hn::Add(hn::Add(quads[0], quads[1]), hn::Add(quads[2], quads[3]));
}

/// PowerOfRatio plus 64; a tiny row's is so large that all its numbers round to 0.
HWY_INLINE hn::Vec<hn::RebindToUnsigned<QuadTag>> BiasedPower(QuadVec square, float inverse_limit2) {
  const QuadTag d;
  const hn::RebindToUnsigned<QuadTag> du;
  const auto exponent = hn::ShiftRight<23>(hn::BitCast(du, hn::Mul(square, hn::Set(d, inverse_limit2))));
  const auto power = hn::ShiftRight<1>(hn::Add(exponent, hn::Set(du, 3u)));
  return hn::IfThenElse(hn::RebindMask(du, hn::Lt(square, hn::Set(d, kLloydTinySquare))), hn::Set(du, 129u), power);
}

/// Calls store(b, block b) for each block of 16 bytes, as a vector of d16.
template <class D, class Store>
HWY_INLINE void ForEachBlock(D /*d*/, hn::Vec<D> v, const Store& store) {
  if constexpr (hn::MaxLanes(D()) * sizeof(hn::TFromD<D>) == 64) {
    const hn::Half<D> half;
    const hn::Half<hn::Half<D>> quarter;
    const auto low = hn::LowerHalf(half, v), high = hn::UpperHalf(half, v);
    store(0, hn::LowerHalf(quarter, low));
    store(1, hn::UpperHalf(quarter, low));
    store(2, hn::LowerHalf(quarter, high));
    store(3, hn::UpperHalf(quarter, high));
  } else if constexpr (hn::MaxLanes(D()) * sizeof(hn::TFromD<D>) == 32) {
    const hn::Half<D> half;
    store(0, hn::LowerHalf(half, v));
    store(1, hn::UpperHalf(half, v));
  } else {
    store(0, v);
  }
}

/// Stores the 8 numbers of each block at to, to + stride, ...
HWY_INLINE void StoreBlocks(ColumnVec v, std::int16_t* HWY_RESTRICT to, std::size_t stride) {
  ForEachBlock(ColumnTag(), v,
               [&](std::size_t b, auto block) HWY_ATTR { hn::Store(block, hn::FixedTag<std::int16_t, 8>(), to + b * stride); });
}

/// Adding 1.5 * 2^23 steps leaves the number of steps, rounded, in the low bits of the float.
HWY_INLINE RowVec Steps(RowTag d, const float* HWY_RESTRICT x, RowVec sign, float magic) {
  return hn::MulAdd(hn::Load(d, x), sign, hn::Set(d, magic));
}

/// 8 rows of floats -> 8 columns of integers in all of `columns`: pairs of rows share 32 bits, then 4x4 of these turn.
HWY_INLINE void TurnRows(const float* HWY_RESTRICT rows, std::size_t dim, const float* HWY_RESTRICT signs,
                         const float* HWY_RESTRICT magic, std::int16_t* HWY_RESTRICT columns) {
  const RowTag d;
  const ColumnTag d16;
  const hn::Repartition<std::uint32_t, ColumnTag> d32;
  const hn::Repartition<std::uint64_t, ColumnTag> d64;
  for (std::size_t i = 0; i < dim; i += hn::Lanes(d)) {
    const RowVec sign = hn::Load(d, signs + i);
    const auto pair = [&](std::size_t r) HWY_ATTR {
      const auto low = hn::BitCast(d32, Steps(d, rows + r * dim + i, sign, magic[r]));
      const auto high = hn::BitCast(d32, Steps(d, rows + (r + 1) * dim + i, sign, magic[r + 1]));
      return hn::BitCast(d32, hn::OddEven(hn::BitCast(d16, hn::ShiftLeft<16>(high)), hn::BitCast(d16, low)));
    };
    const auto a = pair(0), b = pair(2), c = pair(4), e = pair(6);
    const auto ab_low = hn::BitCast(d64, hn::InterleaveLower(d32, a, b)),
               ab_high = hn::BitCast(d64, hn::InterleaveUpper(d32, a, b));
    const auto ce_low = hn::BitCast(d64, hn::InterleaveLower(d32, c, e)),
               ce_high = hn::BitCast(d64, hn::InterleaveUpper(d32, c, e));
    std::int16_t* to = columns + i * kIntegerRows;
    constexpr std::size_t kStride = 4 * kIntegerRows;
    StoreBlocks(hn::BitCast(d16, hn::InterleaveLower(d64, ab_low, ce_low)), to, kStride);
    StoreBlocks(hn::BitCast(d16, hn::InterleaveUpper(d64, ab_low, ce_low)), to + kIntegerRows, kStride);
    StoreBlocks(hn::BitCast(d16, hn::InterleaveLower(d64, ab_high, ce_high)), to + 2 * kIntegerRows, kStride);
    StoreBlocks(hn::BitCast(d16, hn::InterleaveUpper(d64, ab_high, ce_high)), to + 3 * kIntegerRows, kStride);
  }
}

/// What the columns' rows were, in the order of quads: first quad 0 of each block, then quad 1 of each.
struct RowNorms {
  alignas(64) float squares[kIntegerRows];
  alignas(64) float powers[kIntegerRows];  ///< 2^k: the columns hold x / 2^k
};

/// Where column 8 * b + 4 * h stands in the order of quads.
constexpr std::size_t QuadAt(std::size_t column) { return column / 4 % 2 * (kIntegerRows / 2) + column / 8 * 4; }

/// Loads 32 rows by way of `wide` ([kBlockRows, dim]). `signs` are the first round's, as 1 and -1.
template <typename T, bool kMean>
HWY_INLINE void LoadIntegersAs(const RowsView& rows, const RowOrder& order, const float* HWY_RESTRICT mean,
                               const float* HWY_RESTRICT signs, float inverse_limit2, RowNorms& norms, float* HWY_RESTRICT wide,
                               std::int16_t* HWY_RESTRICT columns) {
  const QuadTag d4;
  const hn::RebindToUnsigned<QuadTag> du4;
  alignas(64) float sums[kBlockRows * 16];
  alignas(16) float magic[kBlockRows];
  const auto* base = static_cast<const T*>(rows.data);
  for (std::size_t column = 0; column < kIntegerRows; column += kBlockRows) {
    for (std::size_t r = 0; r < kBlockRows; ++r) {
      WidenRow<T, kMean>(base + order.RowOf(column + r) * rows.stride, rows.dim, mean, wide + r * rows.dim, sums + 16 * r);
    }
    for (std::size_t r = 0; r < kBlockRows; r += 4) {
      const QuadVec square = SumRows(sums + 16 * r);
      const auto power = BiasedPower(square, inverse_limit2);
      const auto whole = hn::ShiftLeft<23>(hn::Add(power, hn::Set(du4, 127u - 64u)));
      hn::Store(square, d4, norms.squares + QuadAt(column + r));
      hn::Store(hn::BitCast(d4, whole), d4, norms.powers + QuadAt(column + r));
      const auto steps = hn::ShiftLeft<23>(hn::Add(power, hn::Set(du4, 127u - 64u + 23u)));
      hn::Store(hn::BitCast(d4, hn::Or(steps, hn::Set(du4, 0x400000u))), d4, magic + r);
    }
    TurnRows(wide, rows.dim, signs, magic, columns + column);
  }
}

template <bool kMean>
HWY_INLINE void LoadIntegers(const RowsView& rows, const RowOrder& order, const float* HWY_RESTRICT mean,
                             const float* HWY_RESTRICT signs, float inverse_limit2, RowNorms& norms, float* HWY_RESTRICT wide,
                             std::int16_t* HWY_RESTRICT columns) {
  switch (rows.type) {
    case ElementType::kF32: return LoadIntegersAs<float, kMean>(rows, order, mean, signs, inverse_limit2, norms, wide, columns);
    case ElementType::kF16:
      return LoadIntegersAs<hwy::float16_t, kMean>(rows, order, mean, signs, inverse_limit2, norms, wide, columns);
    case ElementType::kBF16:
      return LoadIntegersAs<hwy::bfloat16_t, kMean>(rows, order, mean, signs, inverse_limit2, norms, wide, columns);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
