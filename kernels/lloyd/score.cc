#include "kernels/lloyd/score.h"

#include "kernels/lloyd/layout.h"
#include "kernels/lloyd/query.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/lloyd/score.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/bytes/score-inl.h"
#include "kernels/lloyd/expander-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {

void ScoreAll(const LloydTable& table, const ByteScoreArgs& args) {
  const std::byte* behind = args.block + LloydCodesBytes(table.bits, args.dim, args.tokens);
  const auto* scales = reinterpret_cast<const std::uint16_t*>(args.scales != nullptr ? args.scales : behind);
  const QueryBatches queries{args.prepared, LloydQueryWords(table.bits, args.dim)};
  WithLloydExpander(table, LloydLayout::kKeys, args.block, args.dim, args.tokens,
                    [&](const auto& expander) HWY_ATTR { Score(expander, queries, scales, args); });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(ScoreAll);

void LloydScore(const LloydTable& table, const ByteScoreArgs& args) noexcept { HWY_DYNAMIC_DISPATCH(ScoreAll)(table, args); }

}  // namespace kvant::kernels
#endif  // HWY_ONCE
