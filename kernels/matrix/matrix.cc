#include "kernels/matrix/matrix.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matrix/matrix.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using RowTag = hn::CappedTag<float, 16>;  // four lanes, the running sums, for each of up to four rows
using RowVec = hn::Vec<RowTag>;

inline constexpr std::size_t kRowsAtOnce = hn::MaxLanes(RowTag()) / 4;

/// Directions [first, first + kCount) of kRowsAtOnce rows, which lie in `mixed` as [dim / 4][row][4].
template <std::size_t kCount>
HWY_INLINE void Directions(RowTag d, const float* HWY_RESTRICT basis, std::size_t dim, std::size_t first,
                           const float* HWY_RESTRICT mixed, std::size_t rows, float* HWY_RESTRICT out) {
  RowVec sums[kCount];
  for (auto& sum : sums) sum = hn::Zero(d);
  for (std::size_t i = 0; i < dim; i += 4) {
    const RowVec x = hn::Load(d, mixed + i / 4 * hn::MaxLanes(d));
#pragma GCC unroll 8
    for (std::size_t a = 0; a < kCount; ++a)
      sums[a] = hn::Add(sums[a], hn::Mul(x, hn::LoadDup128(d, basis + (first + a) * dim + i)));
  }
  for (std::size_t a = 0; a < kCount; ++a) {
    HWY_ALIGN float lanes[hn::MaxLanes(RowTag())];
    hn::Store(sums[a], d, lanes);
    for (std::size_t r = 0; r < rows; ++r) {
      const float* four = lanes + 4 * r;
      out[r * dim + first + a] = (four[0] + four[1]) + (four[2] + four[3]);
    }
  }
}

void TimesTransposedAll(const float* matrix, std::size_t dim, const float* rows, std::size_t stride, std::size_t n,
                        float* out) {
  const RowTag d;
  HWY_ALIGN float mixed[kMaxTransposedDim * kRowsAtOnce];
  for (std::size_t first = 0; first < n; first += kRowsAtOnce) {
    const std::size_t count = n - first < kRowsAtOnce ? n - first : kRowsAtOnce;
    const float* from = rows + first * stride;
    for (std::size_t i = 0; i < dim; ++i) {
      for (std::size_t r = 0; r < kRowsAtOnce; ++r)
        mixed[(i / 4 * kRowsAtOnce + r) * 4 + i % 4] = r < count ? from[r * stride + i] : 0.0F;
    }
    for (std::size_t a = 0; a < dim; a += 8) Directions<8>(d, matrix, dim, a, mixed, count, out + first * dim);
  }
}

/// kRows rows by kVectors vectors of numbers: what stays in registers.
template <std::size_t kRows, std::size_t kVectors, class D>
HWY_INLINE void Panel(D d, const RowsTimesMatrixArgs& args, std::size_t row, std::size_t begin) {
  const std::size_t dim = args.dim;
  hn::Vec<D> sums[kRows][kVectors];
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      sums[r][v] = args.offset == nullptr ? hn::Zero(d)
                                          : hn::Mul(hn::Set(d, args.offset_weights[row + r]),
                                                    hn::LoadU(d, args.offset + begin + v * hn::MaxLanes(d)));
    }
  }
  const float* rows = args.rows + row * args.stride;
  for (std::size_t a = 0; a < dim; ++a) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      const auto b = hn::LoadU(d, args.matrix + a * dim + begin + v * hn::MaxLanes(d));
      for (std::size_t r = 0; r < kRows; ++r)
        sums[r][v] = hn::Add(sums[r][v], hn::Mul(hn::Set(d, rows[r * args.stride + a]), b));
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kVectors; ++v)
      hn::StoreU(sums[r][v], d, args.out + (row + r) * dim + begin + v * hn::MaxLanes(d));
  }
}

template <std::size_t kRows>
HWY_INLINE void Rows(const RowsTimesMatrixArgs& args, std::size_t row) {
  const hn::CappedTag<float, 16> wide;
  const hn::CappedTag<float, 4> narrow;
  constexpr std::size_t kWide = 2 * hn::MaxLanes(wide);
  std::size_t i = 0;
  for (; i + kWide <= args.dim; i += kWide) Panel<kRows, 2>(wide, args, row, i);
  for (; i < args.dim; i += hn::MaxLanes(narrow)) Panel<kRows, 1>(narrow, args, row, i);
}

void TimesMatrixAll(const RowsTimesMatrixArgs& args) {
  std::size_t r = 0;
  for (; r + 4 <= args.n; r += 4) Rows<4>(args, r);
  for (; r < args.n; ++r) Rows<1>(args, r);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(TimesTransposedAll);
HWY_EXPORT(TimesMatrixAll);

void RowsTimesTransposed(const float* matrix, std::size_t dim, const float* rows, std::size_t stride, std::size_t n,
                         float* out) noexcept {
  HWY_DYNAMIC_DISPATCH(TimesTransposedAll)(matrix, dim, rows, stride, n, out);
}

void RowsTimesMatrix(const RowsTimesMatrixArgs& args) noexcept { HWY_DYNAMIC_DISPATCH(TimesMatrixAll)(args); }

}  // namespace kvant::kernels
#endif  // HWY_ONCE
