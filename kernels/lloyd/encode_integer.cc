#include <algorithm>
#include <cstring>

#include "kernels/lloyd/encode.h"
#include "kernels/lloyd/integer.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/lloyd/encode_integer.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/lloyd/hadamard16-inl.h"
#include "kernels/lloyd/integer_codes-inl.h"
#include "kernels/lloyd/integer_rows-inl.h"
#include "kernels/ufloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Factors after the first round: times 2^k / |x|, in the columns' order, positive and negative.
HWY_INLINE void FirstFactors(const IntegerRotation& rotation, const RowNorms& norms, std::int16_t* HWY_RESTRICT factors) {
  const RowTag d;
  const hn::Rebind<std::int16_t, RowTag> d16;
  alignas(64) std::int16_t in_quads[kIntegerRows];
  for (std::size_t i = 0; i < kIntegerRows; i += hn::Lanes(d)) {
    const RowVec square = hn::Load(d, norms.squares + i);
    const RowVec factor = hn::Div(hn::Mul(hn::Set(d, rotation.first), hn::Load(d, norms.powers + i)), hn::Sqrt(square));
    const RowVec finite = hn::IfThenZeroElse(hn::Lt(square, hn::Set(d, kLloydTinySquare)), factor);
    hn::Store(hn::DemoteTo(d16, hn::NearestInt(finite)), d16, in_quads + i);
  }
  for (std::size_t column = 0; column < kIntegerRows; column += 4) {
    for (std::size_t r = 0; r < 4; ++r) {
      const std::int16_t factor = in_quads[QuadAt(column) + r];
      factors[column + r] = factor;
      factors[kIntegerRows + column + r] = static_cast<std::int16_t>(-factor);
    }
  }
}

/// `unit` is unit * sqrt(dim), codebook units; `rounding` IntegerRotation's.
struct ScaleConstants {
  float unit = 0;
  float rounding = 0;
};

HWY_INLINE RowVec IntegerScale(RowTag d, LloydScale mode, const ScaleConstants& constants, RowVec norm, const std::int32_t* zz,
                               const std::int32_t* zc, const std::int32_t* cc) {
  const hn::RebindToSigned<RowTag> di;
  const auto load = [&](const std::int32_t* from) HWY_ATTR { return hn::ConvertTo(d, hn::Load(di, from)); };
  const RowVec unit = hn::Mul(norm, hn::Set(d, constants.unit)), rounding = hn::Set(d, constants.rounding);
  switch (mode) {
    case LloydScale::kRaw: return norm;
    case LloydScale::kNormCorrected: return hn::Div(unit, hn::Sqrt(load(cc)));
    case LloydScale::kLeastSquares:
      return hn::Div(hn::Mul(unit, hn::Div(load(zc), hn::Mul(hn::Sqrt(load(zz)), rounding))), load(cc));
    case LloydScale::kUnbiased: return hn::Mul(unit, hn::Div(hn::Mul(hn::Sqrt(load(zz)), rounding), load(zc)));
  }
  return norm;
}

/// Stores the scales of 32 rows; returns the first row that has none, or `none`.
HWY_INLINE std::size_t StoreScales(const LloydEncoding& how, const ScaleConstants& constants, const RowOrder& order,
                                   const RowNorms& norms, const StepSums& sums, std::uint8_t* HWY_RESTRICT stored,
                                   std::size_t none) {
  const RowTag d;
  const hn::Rebind<std::uint16_t, RowTag> d16;
  alignas(64) float scales[kIntegerRows];
  alignas(64) std::uint16_t bits[kIntegerRows];
  bool fine = true;
  for (std::size_t i = 0; i < kIntegerRows; i += hn::Lanes(d)) {
    const RowVec square = hn::Load(d, norms.squares + i);
    const RowVec scale = IntegerScale(d, how.scale, constants, hn::Sqrt(square), sums.zz + i, sums.zc + i, sums.cc + i);
    const RowVec kept = hn::IfThenZeroElse(hn::Lt(square, hn::Set(d, kLloydTinySquare)), scale);
    fine = fine && hn::AllTrue(d, hn::Lt(kept, hn::Set(d, kUfloat16Overflow)));
    hn::Store(kept, d, scales + i);
    hn::Store(hn::DemoteTo(d16, hn::BitCast(hn::RebindToSigned<RowTag>(), ToUfloat16(d, kept))), d16, bits + i);
  }
  std::size_t bad = none;
  for (std::size_t column = 0; column < kIntegerRows; column += 4) {
    std::memcpy(stored + order.RowOf(column) * sizeof(bits[0]), bits + QuadAt(column), 4 * sizeof(bits[0]));
    for (std::size_t r = 0; !fine && r < 4; ++r) {
      if (!(scales[QuadAt(column) + r] < kUfloat16Overflow)) bad = std::min(bad, order.RowOf(column) + r);
    }
  }
  return bad;
}

// Not inlined: one copy per element type, head size, number of bits and layout is enough, of all of them together too much.
template <bool kMean>
HWY_NOINLINE void FillColumns(const LloydEncoding& how, const RowsView& rows, const RowOrder& order, const float* signs,
                              float inverse_limit2, RowNorms& norms, float* wide, std::int16_t* columns) {
  LoadIntegers<kMean>(rows, order, how.mean, signs, inverse_limit2, norms, wide, columns);
}

template <std::size_t kDim>
HWY_NOINLINE void Rotate(const LloydEncoding& how, const TurnFactors& factors, std::int16_t* columns) {
  RotateColumns<kDim>(how.rounds, how.signs, factors, columns);
}

template <std::uint32_t kBits, LloydLayout kLayout>
HWY_NOINLINE void Code(const LloydTable& table, const LloydGrid& grid, std::size_t dim, const std::int16_t* columns,
                       const PlaneTarget (&to)[2], StepSums& sums) {
  CodeColumns<kBits, kLayout>(StepCodes<kBits>(table, grid), dim, columns, to, sums);
}

HWY_INLINE void RotateDims(const LloydEncoding& how, const TurnFactors& factors, std::int16_t* columns) {
  switch (how.shape.dim) {
    case 64: return Rotate<64>(how, factors, columns);
    case 128: return Rotate<128>(how, factors, columns);
    default: return Rotate<256>(how, factors, columns);
  }
}

template <LloydLayout kLayout>
HWY_INLINE void CodeBits(const LloydTable& table, const LloydGrid& grid, std::size_t dim, const std::int16_t* columns,
                         const PlaneTarget (&to)[2], StepSums& sums) {
  switch (table.bits) {
    case 1: return Code<1, kLayout>(table, grid, dim, columns, to, sums);
    case 2: return Code<2, kLayout>(table, grid, dim, columns, to, sums);
    case 3: return Code<3, kLayout>(table, grid, dim, columns, to, sums);
    default: return Code<4, kLayout>(table, grid, dim, columns, to, sums);
  }
}

std::size_t EncodeIntegers(const LloydEncoding& how, const RowsView& rows, std::uint8_t* block, std::byte* scratch) {
  const std::size_t dim = how.shape.dim;
  const std::uint32_t bits = how.table->bits;
  const IntegerRotation rotation(bits, how.shape.dim, how.rounds);
  const LloydGrid grid = MakeLloydGrid(*how.table);
  const ScaleConstants constants{LloydConstants(how).corrected, rotation.rounding};
  auto* columns = reinterpret_cast<std::int16_t*>(scratch);
  auto* wide = reinterpret_cast<float*>(columns + dim * kIntegerRows);
  float* first_signs = wide + dim * kBlockRows;
  for (std::size_t i = 0; i < dim; ++i) first_signs[i] = how.signs[i] != 0 ? -1.0f : 1.0f;
  TurnFactors factors;
  for (std::size_t r = 0; r < kIntegerRows; ++r) {
    factors.middle[r] = rotation.middle, factors.middle[kIntegerRows + r] = static_cast<std::int16_t>(-rotation.middle);
    factors.last[r] = rotation.last, factors.last[kIntegerRows + r] = static_cast<std::int16_t>(-rotation.last);
  }
  RowNorms norms;
  StepSums sums;
  // Rows are taken in the order in which whole vectors of fields come together: 32 rows are two fields of every byte they meet.
  const std::size_t fields = bits == 3 ? 8 : 8 / bits;
  const bool keys = how.layout == LloydLayout::kKeys;
  std::size_t bad = rows.count;
  for (std::size_t tile = 0; tile < rows.count && bad == rows.count; tile += 16 * fields) {
    for (std::size_t field = 0; field < fields; field += 2) {
      const RowOrder order = keys ? RowOrder{tile + 16 * field, 4, 16} : RowOrder{tile + 4 * field, 4 * fields, 4};
      how.mean == nullptr ? FillColumns<false>(how, rows, order, first_signs, rotation.inverse_limit2, norms, wide, columns)
                          : FillColumns<true>(how, rows, order, first_signs, rotation.inverse_limit2, norms, wide, columns);
      FirstFactors(rotation, norms, factors.first);
      RotateDims(how, factors, columns);
      PlaneTarget to[2];
      std::uint8_t* codes = block;
      for (std::uint32_t p = 0; p < LloydPlaneCount(bits); ++p) {
        const std::uint32_t plane_bits = LloydPlaneAt(bits, p).bits;
        const LloydField at = LloydFieldOf(how.layout, plane_bits, dim, order.RowOf(0), 0);
        const LloydField next = LloydFieldOf(how.layout, plane_bits, dim, order.RowOf(8), 0);
        to[p] = {codes + at.byte, next.byte - at.byte, static_cast<int>(at.shift)};
        codes += LloydPlaneBytes(plane_bits, dim, rows.count);
      }
      keys ? CodeBits<LloydLayout::kKeys>(*how.table, grid, dim, columns, to, sums)
           : CodeBits<LloydLayout::kValues>(*how.table, grid, dim, columns, to, sums);
      bad = StoreScales(how, constants, order, norms, sums, block + LloydCodesBytes(bits, dim, rows.count), bad);
    }
  }
  return bad;
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(EncodeIntegers);

std::size_t LloydEncodeInIntegers(const LloydEncoding& how, const RowsView& rows, std::uint8_t* block,
                                  std::byte* scratch) noexcept {
  return HWY_DYNAMIC_DISPATCH(EncodeIntegers)(how, rows, block, scratch);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
