#include "kernels/lloyd/layout.h"
#include "kernels/trellis/attend.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/trellis/accumulate.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/bytes/accumulate-inl.h"
#include "kernels/trellis/expander-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {

template <std::uint32_t kBits>
HWY_INLINE void AccumulateBits(const TrellisTable& table, const ByteAccumulateArgs& args) {
  const std::byte* behind = args.block + LloydCodesBytes(kBits, args.dim, args.tokens);
  const auto* scales = reinterpret_cast<const std::uint16_t*>(args.scales != nullptr ? args.scales : behind);
  const auto* codes = reinterpret_cast<const std::uint8_t*>(args.block);
  const auto* tops = codes + LloydPlaneBytes(2, args.dim, args.tokens);
  const TrellisExpander<kBits, ValueTrail<false>> expander{table, codes, {4 * args.dim}, tops};
  Accumulate(expander, scales, args);
}

void AccumulateAll(const TrellisTable& table, const ByteAccumulateArgs& args) {
  switch (table.bits()) {
    case 1: return AccumulateBits<1>(table, args);
    case 2: return AccumulateBits<2>(table, args);
    case 3: return AccumulateBits<3>(table, args);
    default: return AccumulateBits<4>(table, args);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(AccumulateAll);

void TrellisAccumulate(const TrellisTable& table, const ByteAccumulateArgs& args) noexcept {
  HWY_DYNAMIC_DISPATCH(AccumulateAll)(table, args);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
