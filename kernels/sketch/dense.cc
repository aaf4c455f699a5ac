#include "kernels/sketch/dense.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sketch/dense.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void DenseColumnsAll(const float* HWY_RESTRICT matrix, std::size_t rows, std::size_t dim, const float* HWY_RESTRICT columns,
                     float factor, float* HWY_RESTRICT out) {
  constexpr std::size_t kRows = 8;  // sums at once: a number of the columns is read once for all of them
  const hn::CappedTag<float, kLanes> d;
  const auto f = hn::Set(d, factor);
  for (std::size_t lane = 0; lane < kLanes; lane += hn::Lanes(d)) {
    for (std::size_t i = 0; i < rows; i += kRows) {
      const float* HWY_RESTRICT m = matrix + i * dim;
      hn::Vec<decltype(d)> sums[kRows];
#pragma GCC unroll 8
      for (std::size_t j = 0; j < kRows; ++j) sums[j] = hn::Zero(d);
      for (std::size_t k = 0; k < dim; ++k) {
        const auto x = hn::Load(d, columns + k * kLanes + lane);
#pragma GCC unroll 8
        for (std::size_t j = 0; j < kRows; ++j) sums[j] = hn::Add(sums[j], hn::Mul(hn::Set(d, m[j * dim + k]), x));
      }
#pragma GCC unroll 8
      for (std::size_t j = 0; j < kRows; ++j) hn::Store(hn::Mul(sums[j], f), d, out + (i + j) * kLanes + lane);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(DenseColumnsAll);

void DenseColumns(const float* matrix, std::size_t rows, std::size_t dim, const float* columns, float factor,
                  float* out) noexcept {
  HWY_DYNAMIC_DISPATCH(DenseColumnsAll)(matrix, rows, dim, columns, factor, out);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
