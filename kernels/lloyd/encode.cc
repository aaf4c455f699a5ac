#include "kernels/lloyd/encode.h"

#include <cmath>

#include "kernels/lloyd/integer.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/lloyd/encode.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/rotation/hadamard-inl.h"
#include "kernels/rotation/transpose-inl.h"
#include "kernels/ufloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using LaneMask = hn::Mask<LaneTag>;

/// Four running sums, so that adding does not wait for itself; always the same four.
struct FourSums {
  LaneVec sum[4];
  explicit HWY_INLINE FourSums(LaneTag d) : sum{hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)} {}
  HWY_INLINE void Add(std::size_t i, LaneVec v) { sum[i] = hn::Add(sum[i], v); }
  HWY_INLINE LaneVec Total() const { return hn::Add(hn::Add(sum[0], sum[1]), hn::Add(sum[2], sum[3])); }
};

/// Subtracts the mean (if any) and returns the squared norms.
HWY_INLINE LaneVec Centre(LaneTag d, std::size_t dim, const float* HWY_RESTRICT mean, float* HWY_RESTRICT x) {
  FourSums squares(d);
  for (std::size_t i = 0; i < dim; i += 4) {
    for (std::size_t j = 0; j < 4; ++j) {
      LaneVec v = hn::Load(d, x + (i + j) * kLanes);
      if (mean != nullptr) {
        v = hn::Sub(v, hn::Set(d, mean[i + j]));
        hn::Store(v, d, x + (i + j) * kLanes);
      }
      squares.Add(j, hn::Mul(v, v));
    }
  }
  return squares.Total();
}

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

/// What the 16 rows' scales are computed from.
struct RowSums {
  LaneVec dot;     ///< <z, c>
  LaneVec square;  ///< |c|^2
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

/// One plane of 16 tokens from `first` on, keys: whole vectors, later fields are added to the bytes of earlier ones.
HWY_INLINE void PackKeys(std::size_t dim, LloydPlane plane, std::size_t first, const std::uint32_t* HWY_RESTRICT indices,
                         std::uint8_t* HWY_RESTRICT codes) {
  const LaneTagU du;
  const LloydField at = LloydFieldOf(LloydLayout::kKeys, plane.bits, dim, first, 0);
  const auto mask = hn::Set(du, ((1u << plane.bits) - 1u) * 0x01010101u);
  auto* to = reinterpret_cast<std::uint32_t*>(codes + at.byte);
  for (std::size_t k = 0; k < dim / 4 * kLanes; k += hn::Lanes(du)) {
    auto v = hn::And(hn::ShiftRightSame(hn::Load(du, indices + k), static_cast<int>(plane.shift)), mask);
    v = hn::ShiftLeftSame(v, static_cast<int>(at.shift));
    if (at.shift != 0) v = hn::Or(v, hn::Load(du, to + k));
    hn::Store(v, du, to + k);
  }
}

/// One plane of 16 tokens, values: each quad of tokens turns from [token][dim] to [dim][token], 4 dims at a time.
HWY_INLINE void PackValues(std::size_t dim, LloydPlane plane, std::size_t first, const std::uint32_t* HWY_RESTRICT indices,
                           std::uint8_t* HWY_RESTRICT codes) {
  const hn::FixedTag<std::uint8_t, 16> d8;
  const hn::FixedTag<std::uint32_t, 4> d32;
  HWY_ALIGN static constexpr std::uint8_t kTurn[16] = {0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15};
  const auto turn = hn::Load(d8, kTurn);
  const auto mask = hn::Set(d32, ((1u << plane.bits) - 1u) * 0x01010101u);
  for (std::size_t quad = 0; quad < 4; ++quad) {
    const LloydField at = LloydFieldOf(LloydLayout::kValues, plane.bits, dim, first + 4 * quad, 0);
    std::uint8_t* to = codes + at.byte;
    for (std::size_t g = 0; g < dim / 4; ++g) {
      auto v = hn::Load(d32, indices + g * kLanes + 4 * quad);
      v = hn::ShiftLeftSame(hn::And(hn::ShiftRightSame(v, static_cast<int>(plane.shift)), mask), static_cast<int>(at.shift));
      auto bytes = hn::TableLookupBytes(hn::BitCast(d8, v), turn);
      if (at.shift != 0) bytes = hn::Or(bytes, hn::Load(d8, to + g * 16));
      hn::Store(bytes, d8, to + g * 16);
    }
  }
}

HWY_INLINE LaneVec Scale(LaneTag d, LloydScale mode, const LloydEncodeConstants& constants, LaneVec norm, const RowSums& sums) {
  switch (mode) {
    case LloydScale::kRaw: return norm;
    case LloydScale::kNormCorrected: return hn::Div(hn::Mul(norm, hn::Set(d, constants.corrected)), hn::Sqrt(sums.square));
    case LloydScale::kLeastSquares: return hn::Div(hn::Mul(norm, sums.dot), sums.square);
    case LloydScale::kUnbiased: return hn::Div(hn::Mul(norm, hn::Set(d, constants.unbiased)), sums.dot);
  }
  return norm;
}

template <std::uint32_t kBits>
HWY_INLINE std::size_t EncodeBits(const LloydEncoding& how, const RowsView& rows, std::uint8_t* HWY_RESTRICT block,
                                  std::byte* scratch) {
  const LaneTag d;
  const LaneTagU du;
  const std::size_t dim = how.shape.dim;
  const LloydEncodeConstants constants = LloydConstants(how);
  auto* HWY_RESTRICT columns = reinterpret_cast<float*>(scratch);
  auto* HWY_RESTRICT indices = reinterpret_cast<std::uint32_t*>(columns + dim * kLanes);
  alignas(64) float squares[kLanes];
  alignas(64) std::uint32_t scales[kLanes];
  auto* stored = reinterpret_cast<std::uint16_t*>(block + LloydCodesBytes(kBits, dim, rows.count));
  for (std::size_t first = 0; first < rows.count; first += kLanes) {
    LoadColumnsOf(rows, first, kLanes, columns);
    for (std::size_t lane = 0; lane < kLanes; lane += hn::Lanes(d)) {
      hn::Store(Centre(d, dim, how.mean, columns + lane), d, squares + lane);
    }
    HadamardColumns(how.shape, how.rounds, how.signs, columns);
    bool fine = true;
    for (std::size_t lane = 0; lane < kLanes; lane += hn::Lanes(d)) {
      const LaneVec square = hn::Load(d, squares + lane);
      const LaneMask tiny = hn::Lt(square, hn::Set(d, kLloydTinySquare));
      const LaneVec norm = hn::Sqrt(square);
      const LaneVec to_units = hn::IfThenZeroElse(tiny, hn::Div(hn::Set(d, constants.to_units), norm));
      const RowSums sums = Quantise<kBits>(d, *how.table, dim, columns + lane, to_units, indices + lane);
      const LaneVec scale = hn::IfThenZeroElse(tiny, Scale(d, how.scale, constants, norm, sums));
      fine = fine && hn::AllTrue(d, hn::Lt(scale, hn::Set(d, kUfloat16Overflow)));
      hn::Store(ToUfloat16(d, scale), du, scales + lane);
      hn::Store(scale, d, squares + lane);
    }
    if (!fine) {
      std::size_t bad = 0;
      while (bad + 1 < kLanes && squares[bad] < kUfloat16Overflow) ++bad;
      return first + bad;
    }
    for (std::size_t i = 0; i < kLanes; ++i) stored[first + i] = static_cast<std::uint16_t>(scales[i]);
    std::uint8_t* codes = block;
    for (std::uint32_t p = 0; p < LloydPlaneCount(kBits); ++p) {
      const LloydPlane plane = LloydPlaneAt(kBits, p);
      if (how.layout == LloydLayout::kKeys) {
        PackKeys(dim, plane, first, indices, codes);
      } else {
        PackValues(dim, plane, first, indices, codes);
      }
      codes += LloydPlaneBytes(plane.bits, dim, rows.count);
    }
  }
  return rows.count;
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
