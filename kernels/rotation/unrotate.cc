#include "kernels/rotation/unrotate.h"

#include <kvant/tensor.h>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rotation/unrotate.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/rotation/hadamard_quad-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// row = factor * row + weight * mean.
HWY_INLINE void ScaleRow(const UnrotateArgs& args, std::size_t i) {
  const hn::CappedTag<float, 8> d;  // head_dim is a multiple of 8
  const std::size_t dim = args.map.shape.dim;
  float* HWY_RESTRICT row = args.rows + i * dim;
  const auto factor = hn::Set(d, args.factor);
  for (std::size_t k = 0; k < dim; k += hn::Lanes(d)) {
    auto v = hn::Mul(hn::LoadU(d, row + k), factor);
    if (args.mean != nullptr) v = hn::Add(v, hn::Mul(hn::Set(d, args.mean_weights[i]), hn::LoadU(d, args.mean + k)));
    hn::StoreU(v, d, row + k);
  }
}

void UnrotateAll(const UnrotateArgs& args) {
  const LaneTag d;
  const HadamardMap& map = args.map;
  const std::size_t dim = map.shape.dim;
  auto* columns = reinterpret_cast<float*>(args.scratch);
  for (std::size_t first = 0; first < args.n;) {
    const std::size_t left = args.n - first;
    const float* from = args.from + first * args.stride;
    std::size_t count = left < kLanes ? left : kLanes;
    if (map.quarter_signs != nullptr && left <= 2 * kQuadRows) {
      count = left < kQuadRows ? left : kQuadRows;
      LoadQuarters(from, args.stride, dim, count, nullptr, columns);
      for (std::size_t lane = 0; lane < 4 * count; lane += hn::Lanes(d)) {
        HadamardInverseQuarters(d, dim, map.rounds, map.quarter_signs, columns + lane);
      }
      StoreQuarters(columns, dim, count, args.rows + first * dim, dim);
    } else {
      LoadColumnsOf({from, ElementType::kF32, count, dim, args.stride}, 0, count, columns);
      HadamardInverseColumns(map.shape, map.rounds, map.signs, columns);
      StoreColumnsTo(columns, dim, 0, count, args.rows + first * dim, dim);
    }
    for (std::size_t i = 0; i < count; ++i) ScaleRow(args, first + i);
    first += count;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(UnrotateAll);

void Unrotate(const UnrotateArgs& args) noexcept { HWY_DYNAMIC_DISPATCH(UnrotateAll)(args); }

}  // namespace kvant::kernels
#endif  // HWY_ONCE
