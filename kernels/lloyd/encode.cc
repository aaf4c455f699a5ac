#include "kernels/lloyd/encode.h"

#include <cmath>

#include "kernels/lloyd/integer.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/lloyd/encode.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/lloyd/encode-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

struct Quantised {
  LaneVecI index;     ///< of the magnitude, in [0, 2^(bits-1))
  LaneVec magnitude;  ///< the centroid's
};

/// Magnitudes of |z| in codebook units: one comparison per threshold.
template <std::uint32_t kBits, bool kWords = LloydHasWords(kBits)>
struct Thresholds {
  static constexpr std::size_t kCount = (1u << (kBits - 1)) - 1;
  const LloydTable& table;

  HWY_INLINE Quantised operator()(LaneTag d, LaneVec z) const {
    const LaneTagI di;
    LaneVecI index = hn::Zero(di);
    LaneVec magnitude = hn::Set(d, static_cast<float>(table.magnitudes[0]));
    for (std::size_t i = 0; i < kCount; ++i) {
      const LaneMask above = hn::Ge(z, hn::Set(d, table.thresholds[i]));
      index = hn::Sub(index, hn::VecFromMask(di, hn::RebindMask(di, above)));
      magnitude = hn::IfThenElse(above, hn::Set(d, static_cast<float>(table.magnitudes[i + 1])), magnitude);
    }
    return {index, magnitude};
  }
};

/// Words: thresholds are whole numbers, so floor(|z|) decides.
template <std::uint32_t kBits>
struct Thresholds<kBits, true> {
  const LloydTable& table;

  HWY_INLINE Quantised operator()(LaneTag d, LaneVec z) const {
    const LaneTagI di;
    const LaneVecI cell = hn::Max(hn::Min(hn::ConvertTo(di, z), hn::Set(di, 2047)), hn::Zero(di));
    HWY_ALIGN std::int32_t cells[kLanes];
    HWY_ALIGN float magnitudes[kLanes];
    hn::Store(cell, di, cells);
    for (std::size_t i = 0; i < hn::Lanes(d); ++i) {
      cells[i] = table.grid[static_cast<std::size_t>(cells[i])];
      magnitudes[i] = table.magnitudes[static_cast<std::size_t>(cells[i])];
    }
    return {hn::Load(di, cells), hn::Load(d, magnitudes)};
  }
};

/// Codes of rotated columns: indices[g * 16 + lane] holds dims 4g..4g+3 in its four bytes. `to_units` turns columns into
/// codebook units.
template <std::uint32_t kBits>
HWY_INLINE RowSums Quantise(LaneTag d, const LloydTable& table, std::size_t dim, const float* HWY_RESTRICT x, LaneVec to_units,
                            std::uint32_t* HWY_RESTRICT indices) {
  const LaneTagI di;
  const Thresholds<kBits> thresholds{table};
  const LaneVecI half = hn::Set(di, 1 << (kBits - 1));
  FourSums dot(d), square(d);
  for (std::size_t i = 0; i < dim; i += 4) {
    LaneVecI packed[4];
    for (std::size_t j = 0; j < 4; ++j) {
      const LaneVec z = hn::Mul(hn::Load(d, x + (i + j) * kLanes), to_units);
      const LaneVec a = hn::Abs(z);
      const Quantised q = thresholds(d, a);
      dot.Add(j, hn::Mul(a, q.magnitude));
      square.Add(j, hn::Mul(q.magnitude, q.magnitude));
      // Below zero the order turns round: ~index. 0 and -0 count as positive.
      const LaneVecI below = hn::VecFromMask(di, hn::RebindMask(di, hn::Lt(z, hn::Zero(d))));
      packed[j] = hn::Add(hn::Xor(q.index, below), half);
    }
    const LaneVecI low = hn::Or(packed[0], hn::ShiftLeft<8>(packed[1]));
    const LaneVecI high = hn::Or(hn::ShiftLeft<16>(packed[2]), hn::ShiftLeft<24>(packed[3]));
    hn::Store(hn::BitCast(LaneTagU(), hn::Or(low, high)), LaneTagU(), indices + i / 4 * kLanes);
  }
  return {dot.Total(), square.Total()};
}

template <std::uint32_t kBits>
HWY_INLINE std::size_t EncodeBits(const LloydEncoding& how, const RowsView& rows, std::uint8_t* block, std::byte* scratch) {
  return EncodeRows(how, rows, block, scratch,
                    [&](LaneTag d, const float* x, LaneVec to_units, std::uint32_t* indices)
                        HWY_ATTR { return Quantise<kBits>(d, *how.table, how.shape.dim, x, to_units, indices); });
}

std::size_t EncodeAll(const LloydEncoding& how, const RowsView& rows, std::uint8_t* block, std::byte* scratch) {
  switch (how.table->bits) {
    case 1: return EncodeBits<1>(how, rows, block, scratch);
    case 2: return EncodeBits<2>(how, rows, block, scratch);
    case 3: return EncodeBits<3>(how, rows, block, scratch);
    case 4: return EncodeBits<4>(how, rows, block, scratch);
    case 5: return EncodeBits<5>(how, rows, block, scratch);
    case 6: return EncodeBits<6>(how, rows, block, scratch);
    case 7: return EncodeBits<7>(how, rows, block, scratch);
    default: return EncodeBits<8>(how, rows, block, scratch);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(EncodeAll);

LloydEncodeConstants LloydConstants(const LloydEncoding& how) noexcept {
  const double unit = how.table->unit;
  const double root = std::sqrt(static_cast<double>(how.shape.dim));
  return {static_cast<float>(unit * root / how.shape.gain(how.rounds)),
          static_cast<float>(unit * unit * static_cast<double>(how.shape.dim)), static_cast<float>(unit * root)};
}

std::size_t LloydEncode(const LloydEncoding& how, const RowsView& rows, std::uint8_t* block, std::byte* scratch) noexcept {
  if (RotatesInIntegers(*how.table, how.shape, how.rounds)) return LloydEncodeInIntegers(how, rows, block, scratch);
  return HWY_DYNAMIC_DISPATCH(EncodeAll)(how, rows, block, scratch);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
