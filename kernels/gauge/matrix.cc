#include "kernels/gauge/matrix.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/gauge/matrix.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// kRows rows by kVectors vectors of columns: what stays in registers.
template <std::size_t kRows, std::size_t kVectors, class D>
HWY_INLINE void Panel(D d, const float* HWY_RESTRICT rows, std::size_t stride, std::size_t dim,
                      const float* HWY_RESTRICT matrix, float* HWY_RESTRICT out) {
  hn::Vec<D> sums[kRows][kVectors];
  for (auto& row : sums) {
    for (auto& sum : row) sum = hn::Zero(d);
  }
  for (std::size_t i = 0; i < dim; ++i) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      const auto m = hn::LoadU(d, matrix + i * dim + v * hn::MaxLanes(d));
      for (std::size_t r = 0; r < kRows; ++r) {
        // No fused multiply-add: its bits are not those of targets without it.
        sums[r][v] = hn::Add(sums[r][v], hn::Mul(hn::Set(d, rows[r * stride + i]), m));
      }
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kVectors; ++v) hn::StoreU(sums[r][v], d, out + r * dim + v * hn::MaxLanes(d));
  }
}

template <std::size_t kRows>
HWY_INLINE void Columns(const float* rows, std::size_t stride, std::size_t dim, const float* matrix, float* out) {
  const hn::CappedTag<float, 16> wide;
  const hn::CappedTag<float, 4> narrow;
  std::size_t j = 0;
  for (; j + 2 * hn::MaxLanes(wide) <= dim; j += 2 * hn::MaxLanes(wide))
    Panel<kRows, 2>(wide, rows, stride, dim, matrix + j, out + j);
  for (; j < dim; j += hn::MaxLanes(narrow)) Panel<kRows, 1>(narrow, rows, stride, dim, matrix + j, out + j);
}

void MultiplyTarget(const float* rows, std::size_t stride, std::size_t n, std::size_t dim, const float* matrix, float* out) {
  std::size_t r = 0;
  for (; r + 4 <= n; r += 4) Columns<4>(rows + r * stride, stride, dim, matrix, out + r * dim);
  for (; r < n; ++r) Columns<1>(rows + r * stride, stride, dim, matrix, out + r * dim);
}

}  // namespace kvant::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(MultiplyTarget);

void RowsTimesMatrix(const float* rows, std::size_t stride, std::size_t n, std::size_t dim, const float* matrix,
                     float* out) noexcept {
  HWY_DYNAMIC_DISPATCH(MultiplyTarget)(rows, stride, n, dim, matrix, out);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
