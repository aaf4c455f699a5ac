// hadamard.h for up to four rows of 4 * n dims, n a power of two from 8 on: where a batch has few rows, four lanes share one
// row. Quarters: lane 4 * r + s of column c holds number s * dim / 4 + c of row r; a column is kLanes floats. The arithmetic of
// a row is that of hadamard-inl.h, operation for operation, so both give the same bits. No include guard by design: see
// Highway's foreach_target.
#if defined(KVANT_KERNELS_HADAMARD_QUAD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_HADAMARD_QUAD_INL_H_
#undef KVANT_KERNELS_HADAMARD_QUAD_INL_H_
#else
#define KVANT_KERNELS_HADAMARD_QUAD_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/rotation/hadamard-inl.h"
#include "kernels/rotation/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr std::size_t kQuadRows = 4;

/// Row r of `count` <= 4 stands at rows + r * stride; other lanes become 0. Where `signs` ([dim]) is not null, they are turned.
HWY_INLINE void LoadQuarters(const float* HWY_RESTRICT rows, std::size_t stride, std::size_t dim, std::size_t count,
                             const std::uint32_t* HWY_RESTRICT signs, float* HWY_RESTRICT columns) {
  const QuadTag d;
  const std::size_t quarter = dim / 4;
  for (std::size_t i = 0; i < quarter; i += 4) {
    for (std::size_t r = 0; r < kQuadRows; ++r) {
      QuadVec v[4];
      for (std::size_t s = 0; s < 4; ++s) {
        v[s] = hn::Zero(d);
        if (r < count) {
          v[s] = hn::LoadU(d, rows + r * stride + s * quarter + i);
          if (signs != nullptr) v[s] = hn::Xor(v[s], hn::LoadU(d, reinterpret_cast<const float*>(signs) + s * quarter + i));
        }
      }
      TransposeQuad(d, v[0], v[1], v[2], v[3]);
      for (std::size_t k = 0; k < 4; ++k) hn::Store(v[k], d, columns + (i + k) * kLanes + 4 * r);
    }
  }
}

/// The way back: row r to rows + r * stride.
HWY_INLINE void StoreQuarters(const float* HWY_RESTRICT columns, std::size_t dim, std::size_t count, float* HWY_RESTRICT rows,
                              std::size_t stride) {
  const QuadTag d;
  const std::size_t quarter = dim / 4;
  for (std::size_t i = 0; i < quarter; i += 4) {
    for (std::size_t r = 0; r < count; ++r) {
      QuadVec v[4];
      for (std::size_t k = 0; k < 4; ++k) v[k] = hn::Load(d, columns + (i + k) * kLanes + 4 * r);
      TransposeQuad(d, v[0], v[1], v[2], v[3]);
      for (std::size_t s = 0; s < 4; ++s) hn::StoreU(v[s], d, rows + r * stride + s * quarter + i);
    }
  }
}

/// One round's mixing; then, where `flip` ([dim / 4][4], HadamardShape::QuarterSigns) is not null, the signs turned.
HWY_INLINE void MixQuarters(LaneTag d, std::size_t quarter, const std::uint32_t* HWY_RESTRICT flip, float* HWY_RESTRICT x) {
  const hn::RebindToUnsigned<LaneTag> du;
  Sylvester<false>(d, x, quarter, 1, nullptr);
  HWY_ALIGN static constexpr std::uint32_t kOdd[4] = {0, 0x80000000u, 0, 0x80000000u};
  HWY_ALIGN static constexpr std::uint32_t kUpper[4] = {0, 0, 0x80000000u, 0x80000000u};
  const auto odd = hn::BitCast(d, hn::LoadDup128(du, kOdd)), upper = hn::BitCast(d, hn::LoadDup128(du, kUpper));
  for (std::size_t c = 0; c < quarter; ++c) {
    LaneVec v = hn::Load(d, x + c * kLanes);
    // (a, b) -> (a + b, a - b) within the four lanes of a row.
    v = hn::Add(hn::Shuffle2301(v), hn::Xor(v, odd));
    v = hn::Add(hn::Shuffle1032(v), hn::Xor(v, upper));
    if (flip != nullptr) v = hn::Xor(v, hn::BitCast(d, hn::LoadDup128(du, flip + 4 * c)));
    hn::Store(v, d, x + c * kLanes);
  }
}

/// columns <- gain * Q columns; the first round's signs were turned by LoadQuarters.
HWY_INLINE void HadamardQuarters(LaneTag d, std::size_t dim, std::size_t rounds, const std::uint32_t* HWY_RESTRICT signs,
                                 float* HWY_RESTRICT x) {
  for (std::size_t round = 1; round <= rounds; ++round) {
    MixQuarters(d, dim / 4, round < rounds ? signs + round * dim : nullptr, x);
  }
}

/// columns <- gain * transpose(Q) columns.
HWY_INLINE void HadamardInverseQuarters(LaneTag d, std::size_t dim, std::size_t rounds, const std::uint32_t* HWY_RESTRICT signs,
                                        float* HWY_RESTRICT x) {
  for (std::size_t round = rounds; round-- > 0;) MixQuarters(d, dim / 4, signs + round * dim, x);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
