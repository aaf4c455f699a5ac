#include "kernels/polar/encode.h"

#include "kernels/polar/table.h"
#include "kernels/ufloat16.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/polar/encode.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/polar/pick-inl.h"
#include "kernels/rotation/hadamard-inl.h"
#include "kernels/rotation/transpose-inl.h"
#include "kernels/ufloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using LaneVecU = hn::Vec<LaneTagU>;

/// Writes the strings of as many tokens as there are lanes: whole words to the tile, the rest to `rest`.
struct CodeWriter {
  std::uint8_t* words;  ///< of the first lane's token, in the tile
  LaneVecU current;
  std::uint32_t filled = 0;  ///< bits of `current`

  HWY_INLINE void Put(LaneVecI code, std::uint32_t bits) {
    const LaneTagU du;
    const auto v = hn::BitCast(du, code);
    current = hn::Or(current, hn::ShiftLeftSame(v, static_cast<int>(filled)));
    filled += bits;
    if (filled < 32) return;
    const hn::Repartition<std::uint8_t, LaneTagU> d8;
    hn::StoreU(hn::BitCast(d8, current), d8, words);
    words += 64;
    filled -= 32;
    current = filled == 0 ? hn::Zero(du) : hn::ShiftRightSame(v, static_cast<int>(bits - filled));
  }
};

/// How many of the table's boundaries the angle of (x, y), both >= 0, lies beyond.
HWY_INLINE LaneVecI Beyond(LaneTag d, const PolarAngles& table, LaneVec x, LaneVec y) {
  const LaneTagI di;
  LaneVecI count = hn::Zero(di);
  for (std::size_t i = 0; i < table.boundaries; ++i) {
    const auto beyond =
        hn::Gt(hn::Mul(y, hn::Set(d, table.boundary_cosines[i])), hn::Mul(x, hn::Set(d, table.boundary_sines[i])));
    count = hn::Sub(count, hn::VecFromMask(di, hn::RebindMask(di, beyond)));
  }
  return count;
}

/// The part of the circle that (x, y) lies in. 0 and -0 count as positive.
HWY_INLINE LaneVecI PartOfCircle(LaneTag d, const PolarAngles& circle, LaneVec x, LaneVec y) {
  const LaneTagI di;
  const LaneVecI part = Beyond(d, circle, hn::Abs(x), hn::Abs(y));
  const auto all = static_cast<std::int32_t>(circle.count);
  const auto left = hn::RebindMask(di, hn::Lt(x, hn::Zero(d))), below = hn::RebindMask(di, hn::Lt(y, hn::Zero(d)));
  const LaneVecI upper = hn::IfThenElse(left, hn::Sub(hn::Set(di, all / 2 - 1), part), part);
  const LaneVecI lower = hn::IfThenElse(left, hn::Add(hn::Set(di, all / 2), part), hn::Sub(hn::Set(di, all - 1), part));
  return hn::IfThenElse(below, lower, upper);
}

/// Numbers that have been folded: their norm, and their product with what their angles read back as.
struct Folded {
  LaneVec norm;
  LaneVec dot;
};

/// Their new angle's code goes to `writer`.
HWY_INLINE Folded Fold(LaneTag d, const PolarAngles& table, std::uint32_t bits, const Folded& a, const Folded& b,
                       CodeWriter& writer) {
  const LaneVecI code = Beyond(d, table, a.norm, b.norm);
  writer.Put(code, bits);
  const LaneVec dot = hn::Add(hn::Mul(a.dot, Pick<kPolarPadded>(d, table.cosines.data(), code)),
                              hn::Mul(b.dot, Pick<kPolarPadded>(d, table.sines.data(), code)));
  return {hn::Sqrt(hn::Add(hn::Mul(a.norm, a.norm), hn::Mul(b.norm, b.norm))), dot};
}

/// One register of columns. `radii`: [form.radii()][16], `rest`: the words that are not whole. False if a radius is beyond
/// ufloat16 or no number; `largest` then has each row's largest, or NaN.
HWY_INLINE bool EncodeLanes(const PolarEncoding& how, LaneTag d, const float* HWY_RESTRICT x, LaneVec square,
                            std::uint8_t* words, std::uint16_t* HWY_RESTRICT radii, std::size_t stride,
                            std::uint32_t* HWY_RESTRICT rest, float* HWY_RESTRICT largest) {
  const LaneTagU du;
  const PolarForm& form = how.form;
  const PolarAngles& circle = PolarCircle(form.first);
  const auto gain = static_cast<float>(how.map.shape.gain(how.map.rounds));
  const auto tiny = hn::Lt(square, hn::Set(d, kPolarTinySquare));
  const LaneVec norm = hn::Sqrt(square);
  const LaneVec to_unit = hn::IfThenZeroElse(tiny, hn::Div(hn::Set(d, 1.0F / gain), norm));
  CodeWriter writer{words, hn::Zero(du)};
  Folded stack[kPolarMaxLevel];
  std::size_t depth = 0, group = 0;
  LaneVec worst = norm;
  for (std::size_t pair = 0; pair < form.pairs(); ++pair) {
    const LaneVec a = hn::Mul(hn::Load(d, x + 2 * pair * kLanes), to_unit);
    const LaneVec b = hn::Mul(hn::Load(d, x + (2 * pair + 1) * kLanes), to_unit);
    const LaneVecI part = PartOfCircle(d, circle, a, b);
    writer.Put(part, form.first);
    const LaneVec dot = hn::Add(hn::Mul(a, Pick<kPolarPadded>(d, circle.cosines.data(), part)),
                                hn::Mul(b, Pick<kPolarPadded>(d, circle.sines.data(), part)));
    stack[depth++] = {hn::Sqrt(hn::Add(hn::Mul(a, a), hn::Mul(b, b))), dot};
    const std::uint32_t folds = PolarFolds(form, pair);
    for (std::uint32_t level = 2; level < 2 + folds; ++level, --depth) {
      stack[depth - 2] = Fold(d, PolarQuarter(level, form.others), form.others, stack[depth - 2], stack[depth - 1], writer);
    }
    if (folds + 1 < form.levels()) continue;
    const Folded all = stack[--depth];
    LaneVec radius = hn::Mul(norm, all.norm);
    if (how.radius == PolarRadius::kUnbiased) radius = hn::Mul(radius, hn::Div(all.norm, all.dot));
    radius = hn::IfThenZeroElse(hn::Or(tiny, hn::Eq(all.norm, hn::Zero(d))), radius);
    worst = hn::IfThenElse(hn::Or(hn::Gt(radius, worst), hn::Ne(radius, radius)), radius, worst);  // NaN stays
    const hn::Rebind<std::uint16_t, LaneTagU> d16;
    hn::StoreU(hn::TruncateTo(d16, ToUfloat16(d, radius)), d16, radii + group++ * stride);
  }
  hn::Store(writer.current, du, rest);
  hn::Store(worst, d, largest);
  return hn::AllTrue(d, hn::Lt(worst, hn::Set(d, kUfloat16Overflow)));
}

std::size_t EncodeAll(const PolarEncoding& how, const RowsView& rows, std::uint8_t* block, std::byte* scratch) {
  const LaneTag d;
  const PolarForm& form = how.form;
  auto* HWY_RESTRICT columns = reinterpret_cast<float*>(scratch);
  auto* radii = reinterpret_cast<std::uint16_t*>(block + form.codes_bytes(rows.count));
  alignas(64) std::uint32_t rest[kLanes];
  alignas(64) float squares[kLanes];
  alignas(64) float largest[kLanes];
  for (std::size_t first = 0; first < rows.count; first += kLanes, block += form.tile_bytes()) {
    LoadColumnsOf(rows, first, kLanes, columns);
    for (std::size_t lane = 0; lane < kLanes; lane += hn::Lanes(d)) {
      LaneVec sums[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
      for (std::size_t i = 0; i < form.dim; i += 4) {
        for (std::size_t j = 0; j < 4; ++j) {
          const LaneVec v = hn::Load(d, columns + (i + j) * kLanes + lane);
          sums[j] = hn::Add(sums[j], hn::Mul(v, v));
        }
      }
      hn::Store(hn::Add(hn::Add(sums[0], sums[1]), hn::Add(sums[2], sums[3])), d, squares + lane);
    }
    HadamardColumns(how.map.shape, how.map.rounds, how.map.signs, columns);
    bool fine = true;
    for (std::size_t lane = 0; lane < kLanes; lane += hn::Lanes(d)) {
      const bool these = EncodeLanes(how, d, columns + lane, hn::Load(d, squares + lane), block + lane * 4,
                                     radii + first + lane, rows.count, rest + lane, largest + lane);
      fine = fine && these;
    }
    if (!fine) {
      std::size_t bad = 0;
      while (bad + 1 < kLanes && largest[bad] < kUfloat16Overflow) ++bad;
      return first + bad;
    }
    std::uint8_t* planes = block + form.words() * 64;
    for (std::size_t bit = 0; bit < form.code_bits() % 32; ++bit) {
      std::uint32_t plane = 0;
      for (std::size_t t = 0; t < kLanes; ++t) plane |= (rest[t] >> bit & 1U) << t;
      planes[2 * bit] = static_cast<std::uint8_t>(plane);
      planes[2 * bit + 1] = static_cast<std::uint8_t>(plane >> 8);
    }
  }
  return rows.count;
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(EncodeAll);

std::size_t PolarEncode(const PolarEncoding& how, const RowsView& rows, std::uint8_t* block, std::byte* scratch) noexcept {
  return HWY_DYNAMIC_DISPATCH(EncodeAll)(how, rows, block, scratch);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
