// Per-target body of transpose.h. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_TRANSPOSE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_TRANSPOSE_INL_H_
#undef KVANT_KERNELS_TRANSPOSE_INL_H_
#else
#define KVANT_KERNELS_TRANSPOSE_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include <kvant/tensor.h>

#include "hwy/highway.h"
#include "kernels/rotation/hadamard.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using QuadTag = hn::FixedTag<float, 4>;
using QuadVec = hn::Vec<QuadTag>;

struct LoadF32 {
  static HWY_INLINE QuadVec Quad(QuadTag d, const unsigned char* p) { return hn::LoadU(d, reinterpret_cast<const float*>(p)); }
};

struct LoadBF16 {
  static HWY_INLINE QuadVec Quad(QuadTag d, const unsigned char* p) {
    const hn::FixedTag<std::uint16_t, 4> d16;
    const hn::FixedTag<std::uint32_t, 4> d32;
    return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(p)))));
  }
};

/// Infinities and NaN stay what they are: Highway's own emulation where there is no F16C makes large numbers of them.
struct LoadF16 {
  static HWY_INLINE QuadVec Quad(QuadTag d, const unsigned char* p) {
#if HWY_ARCH_X86 && HWY_TARGET <= HWY_AVX2
    const hn::FixedTag<hwy::float16_t, 4> d16;
    return hn::PromoteTo(d, hn::LoadU(d16, reinterpret_cast<const hwy::float16_t*>(p)));
#else
    const hn::FixedTag<std::uint16_t, 4> d16;
    const hn::FixedTag<std::uint32_t, 4> d32;
    const auto half = hn::PromoteTo(d32, hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(p)));
    const auto magnitude = hn::And(half, hn::Set(d32, 0x7FFFu));
    const auto sign = hn::ShiftLeft<16>(hn::Sub(half, magnitude));
    const auto finite = hn::BitCast(d32, hn::Mul(hn::BitCast(d, hn::ShiftLeft<13>(magnitude)), hn::Set(d, 0x1p112f)));
    const hn::FixedTag<std::int32_t, 4> di;
    const auto special = hn::VecFromMask(di, hn::Gt(hn::BitCast(di, magnitude), hn::Set(di, 0x7BFF)));
    return hn::BitCast(d, hn::Or(hn::Or(finite, sign), hn::And(hn::BitCast(d32, special), hn::Set(d32, 0x7F800000u))));
#endif
  }
};

/// Four rows of four numbers become four columns of four.
HWY_INLINE void TransposeQuad(QuadTag d, QuadVec& a, QuadVec& b, QuadVec& c, QuadVec& e) {
  const QuadVec ab_low = hn::InterleaveLower(d, a, b), ab_high = hn::InterleaveUpper(d, a, b);
  const QuadVec ce_low = hn::InterleaveLower(d, c, e), ce_high = hn::InterleaveUpper(d, c, e);
  a = hn::ConcatLowerLower(d, ce_low, ab_low);
  b = hn::ConcatUpperUpper(d, ce_low, ab_low);
  c = hn::ConcatLowerLower(d, ce_high, ab_high);
  e = hn::ConcatUpperUpper(d, ce_high, ab_high);
}

template <class Loader>
HWY_INLINE void LoadColumnsAs(const RowsView& rows, std::size_t first, std::size_t count, float* HWY_RESTRICT columns) {
  const QuadTag d;
  const std::size_t element = ElementBytes(rows.type);
  const auto* base = static_cast<const unsigned char*>(rows.data) + first * rows.stride * element;
  const std::size_t row_bytes = rows.stride * element;
  for (std::size_t r = 0; r < kLanes; r += 4) {
    const std::size_t here = count <= r ? 0 : (count - r < 4 ? count - r : 4);
    const unsigned char* p = base + r * row_bytes;
    for (std::size_t i = 0; i < rows.dim; i += 4, p += 4 * element) {
      QuadVec v0 = hn::Zero(d), v1 = v0, v2 = v0, v3 = v0;
      if (here > 0) v0 = Loader::Quad(d, p);
      if (here > 1) v1 = Loader::Quad(d, p + row_bytes);
      if (here > 2) v2 = Loader::Quad(d, p + 2 * row_bytes);
      if (here > 3) v3 = Loader::Quad(d, p + 3 * row_bytes);
      TransposeQuad(d, v0, v1, v2, v3);
      hn::Store(v0, d, columns + i * kLanes + r);
      hn::Store(v1, d, columns + (i + 1) * kLanes + r);
      hn::Store(v2, d, columns + (i + 2) * kLanes + r);
      hn::Store(v3, d, columns + (i + 3) * kLanes + r);
    }
  }
}

HWY_INLINE void LoadColumnsOf(const RowsView& rows, std::size_t first, std::size_t count, float* HWY_RESTRICT columns) {
  switch (rows.type) {
    case ElementType::kF32: return LoadColumnsAs<LoadF32>(rows, first, count, columns);
    case ElementType::kF16: return LoadColumnsAs<LoadF16>(rows, first, count, columns);
    case ElementType::kBF16: return LoadColumnsAs<LoadBF16>(rows, first, count, columns);
  }
}

HWY_INLINE void StoreColumnsTo(const float* HWY_RESTRICT columns, std::size_t dim, std::size_t first, std::size_t count,
                               float* HWY_RESTRICT rows, std::size_t stride) {
  const QuadTag d;
  for (std::size_t r = 0; r < count; r += 4) {
    const std::size_t here = count - r < 4 ? count - r : 4;
    for (std::size_t i = 0; i < dim; i += 4) {
      const float* from = columns + i * kLanes + first + r;
      // A run of lanes that starts late would read past the last column's end: take what is there, lane by lane.
      if (first + r + 4 > kLanes) {
        for (std::size_t k = 0; k < here; ++k) {
          for (std::size_t j = 0; j < 4; ++j) rows[(r + k) * stride + i + j] = from[j * kLanes + k];
        }
        continue;
      }
      QuadVec v0 = hn::LoadU(d, from), v1 = hn::LoadU(d, from + kLanes);
      QuadVec v2 = hn::LoadU(d, from + 2 * kLanes), v3 = hn::LoadU(d, from + 3 * kLanes);
      TransposeQuad(d, v0, v1, v2, v3);
      float* to = rows + r * stride + i;
      hn::StoreU(v0, d, to);
      if (here > 1) hn::StoreU(v1, d, to + stride);
      if (here > 2) hn::StoreU(v2, d, to + 2 * stride);
      if (here > 3) hn::StoreU(v3, d, to + 3 * stride);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
