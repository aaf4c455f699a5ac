// Per-target pieces that the peers' kernels share. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_TOOLS_PEER_SUMS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_TOOLS_PEER_SUMS_INL_H_
#undef KVANT_TOOLS_PEER_SUMS_INL_H_
#else
#define KVANT_TOOLS_PEER_SUMS_INL_H_
#endif

#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::tools::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Sums of 4 vectors within each block of 4 lanes: lane 4 b + i is the sum of block b of vector i.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V SumBlocks(D d, V v0, V v1, V v2, V v3) {
  const hn::Repartition<std::int64_t, D> d64;
  const auto v01 = hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, v0, v1), hn::InterleaveUpper(d, v0, v1)));
  const auto v23 = hn::BitCast(d64, hn::Add(hn::InterleaveLower(d, v2, v3), hn::InterleaveUpper(d, v2, v3)));
  return hn::Add(hn::BitCast(d, hn::InterleaveLower(d64, v01, v23)), hn::BitCast(d, hn::InterleaveUpper(d64, v01, v23)));
}

/// Sum of all blocks of 4 lanes.
template <class D, class V = hn::Vec<D>>
HWY_INLINE hn::Vec<hn::FixedTag<float, 4>> FoldBlocks(D d, V v) {
  if constexpr (hn::MaxLanes(D()) <= 4) {
    (void)d;
    return v;
  } else {
    const hn::Half<D> half;
    return FoldBlocks(half, hn::Add(hn::LowerHalf(half, v), hn::UpperHalf(half, v)));
  }
}

/// Asks for the next `bytes` of memory that will be wanted soon.
HWY_INLINE const std::byte* PrefetchSome(const std::byte* next, std::size_t bytes) {
  if (next == nullptr) return next;
  for (std::size_t at = 0; at < bytes; at += 64) __builtin_prefetch(next + at, 0, 2);
  return next + bytes;
}

}  // namespace kvant::tools::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // toggle
