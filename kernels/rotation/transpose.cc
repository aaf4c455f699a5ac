#include "kernels/rotation/transpose.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rotation/transpose.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/rotation/transpose-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {

void LoadColumnsAll(const RowsView& rows, std::size_t first, std::size_t count, float* columns) {
  LoadColumnsOf(rows, first, count, columns);
}

void StoreColumnsAll(const float* columns, std::size_t dim, std::size_t first, std::size_t count, float* rows,
                     std::size_t stride) {
  StoreColumnsTo(columns, dim, first, count, rows, stride);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(LoadColumnsAll);
HWY_EXPORT(StoreColumnsAll);

void LoadColumns(const RowsView& rows, std::size_t first, std::size_t count, float* columns) noexcept {
  HWY_DYNAMIC_DISPATCH(LoadColumnsAll)(rows, first, count, columns);
}

void StoreColumns(const float* columns, std::size_t dim, std::size_t first, std::size_t count, float* rows,
                  std::size_t stride) noexcept {
  HWY_DYNAMIC_DISPATCH(StoreColumnsAll)(columns, dim, first, count, rows, stride);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
