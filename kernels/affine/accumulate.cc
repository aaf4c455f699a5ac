#include <algorithm>

#include "kernels/affine/attend.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/affine/accumulate.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/affine/expander-inl.h"
#include "kernels/affine/groups-inl.h"
#include "kernels/bytes/accumulate-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// sums[l] += the products of tokens l, l + kAffineLanes, ... Requires: tokens is a multiple of kAffineLanes.
HWY_INLINE void AddCentres(const float* HWY_RESTRICT weights, const float* HWY_RESTRICT centres, std::size_t tokens,
                           float* HWY_RESTRICT sums) {
  const AffineTag d;
  const std::size_t n = hn::Lanes(d);
  for (std::size_t lane = 0; lane < kAffineLanes; lane += n) {
    auto sum = hn::LoadU(d, sums + lane);
    for (std::size_t t = lane; t < tokens; t += kAffineLanes) {
      sum = hn::Add(sum, hn::Mul(hn::LoadU(d, weights + t), hn::LoadU(d, centres + t)));
    }
    hn::StoreU(sum, d, sums + lane);
  }
}

/// The code part of group `g`.
template <class E>
HWY_INLINE void AccumulateGroup(E expander, const AffineShape& shape, std::size_t g, const ByteAccumulateArgs& part) {
  for (auto& plane : expander.planes) plane += 4 * g * shape.group;
  Accumulate(expander, reinterpret_cast<const std::uint16_t*>(part.block + shape.steps_at(g)), part);
}

template <std::uint32_t kBits>
HWY_INLINE void AccumulateGroups(const AffineShape& shape, const ByteAccumulateArgs& args) {
  if (args.queries == 0) return;
  const std::size_t groups = shape.groups();
  auto* centres = reinterpret_cast<float*>(args.scratch + ByteAccumulateScratchBytes(args.queries));
  ByteAccumulateArgs part = args;
  part.next_bytes = args.next_bytes / groups / 64 * 64;
  for (std::size_t g = 0; g < groups; ++g) {
    const std::size_t first = g * shape.group;
    LoadGroup(args.block + shape.steps_at(g), args.block + shape.zeros_at(g), static_cast<float>(1 << (kBits - 1)),
              shape.tokens, nullptr, centres);
    for (std::size_t i = 0; i < args.queries; ++i) {
      AddCentres(args.weights + i * args.stride, centres, shape.tokens,
                 args.acc + i * args.acc_stride + shape.dim + g * kAffineLanes);
    }
    part.dim = std::min(shape.group, shape.dim - first);
    part.acc = args.acc + first;
    if (args.next != nullptr) part.next = args.next + g * part.next_bytes;
    if (g + 1 == groups) part.next_bytes = args.next_bytes - g * part.next_bytes;
    if constexpr (kBits == kAffineByteBits) {
      if (part.dim < kAffineNarrow) {
        AccumulateGroup(AffineExpander<kBits, true, true>(shape, args.block), shape, g, part);
        continue;
      }
    }
    AccumulateGroup(AffineExpander<kBits, true>(shape, args.block), shape, g, part);
  }
}

void AccumulateTarget(const AffineShape& shape, const ByteAccumulateArgs& args) {
  WithAffineBits(shape.bits, [&](auto bits) HWY_ATTR { AccumulateGroups<decltype(bits)::value>(shape, args); });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(AccumulateTarget);

void AccumulateAffine(const AffineShape& shape, const ByteAccumulateArgs& args) noexcept {
  HWY_DYNAMIC_DISPATCH(AccumulateTarget)(shape, args);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
