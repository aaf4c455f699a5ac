#include "kernels/lloyd/accumulate.h"

#include "kernels/lloyd/layout.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/lloyd/accumulate.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/bytes/accumulate-inl.h"
#include "kernels/lloyd/expander-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {

void AccumulateAll(const LloydTable& table, const ByteAccumulateArgs& args) {
  const std::byte* behind = args.block + LloydCodesBytes(table.bits, args.dim, args.tokens);
  const auto* scales = reinterpret_cast<const std::uint16_t*>(args.scales != nullptr ? args.scales : behind);
  WithLloydExpander(table, LloydLayout::kValues, args.block, args.dim, args.tokens,
                    [&](const auto& expander) HWY_ATTR { Accumulate(expander, scales, args); });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(AccumulateAll);

void LloydAccumulate(const LloydTable& table, const ByteAccumulateArgs& args) noexcept {
  HWY_DYNAMIC_DISPATCH(AccumulateAll)(table, args);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
