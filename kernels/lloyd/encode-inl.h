// What encoders of rotated codes share, whatever picks the codes: rows to columns, norms, rotation in floats, scales, and codes
// to their places. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_LLOYD_ENCODE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_LLOYD_ENCODE_INL_H_
#undef KVANT_KERNELS_LLOYD_ENCODE_INL_H_
#else
#define KVANT_KERNELS_LLOYD_ENCODE_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/lloyd/encode.h"
#include "kernels/lloyd/layout.h"
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

/// What the 16 rows' scales are computed from.
struct RowSums {
  LaneVec dot;     ///< <z, c>
  LaneVec square;  ///< |c|^2
};

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

/// All rows of a block in codes of how.table->bits bits. `quantise(d, x, to_units, indices)` picks the codes of rotated columns
/// x, one number every kLanes, and returns their sums: `to_units` turns columns into codebook units, indices[g * kLanes] takes
/// the codes of dims 4g..4g+3 in its four bytes. Scratch: kLanes * dim floats, then as many bytes, then what quantise wants.
template <class Quantise>
HWY_INLINE std::size_t EncodeRows(const LloydEncoding& how, const RowsView& rows, std::uint8_t* HWY_RESTRICT block,
                                  std::byte* scratch, const Quantise& quantise) {
  const LaneTag d;
  const LaneTagU du;
  const std::size_t dim = how.shape.dim;
  const std::uint32_t bits = how.table->bits;
  const LloydEncodeConstants constants = LloydConstants(how);
  auto* HWY_RESTRICT columns = reinterpret_cast<float*>(scratch);
  auto* HWY_RESTRICT indices = reinterpret_cast<std::uint32_t*>(columns + dim * kLanes);
  alignas(64) float squares[kLanes];
  alignas(64) std::uint32_t scales[kLanes];
  auto* stored = reinterpret_cast<std::uint16_t*>(block + LloydCodesBytes(bits, dim, rows.count));
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
      const RowSums sums = quantise(d, columns + lane, to_units, indices + lane);
      const LaneVec scale = hn::IfThenZeroElse(tiny, Scale(d, how.scale, constants, norm, sums));
      fine = fine && hn::AllTrue(d, hn::Lt(scale, hn::Set(d, kUfloat16Overflow)));
      fine = fine && hn::AllTrue(d, hn::Ge(scale, hn::Zero(d)));
      hn::Store(ToUfloat16(d, scale), du, scales + lane);
      hn::Store(scale, d, squares + lane);
    }
    if (!fine) {
      std::size_t bad = 0;
      while (bad + 1 < kLanes && squares[bad] >= 0 && squares[bad] < kUfloat16Overflow) ++bad;
      return first + bad;
    }
    for (std::size_t i = 0; i < kLanes; ++i) stored[first + i] = static_cast<std::uint16_t>(scales[i]);
    std::uint8_t* codes = block;
    for (std::uint32_t p = 0; p < LloydPlaneCount(bits); ++p) {
      const LloydPlane plane = LloydPlaneAt(bits, p);
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

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
