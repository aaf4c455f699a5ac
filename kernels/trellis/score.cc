#include "kernels/lloyd/layout.h"
#include "kernels/lloyd/query.h"
#include "kernels/trellis/attend.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/trellis/score.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/bytes/score-inl.h"
#include "kernels/trellis/expander-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {

template <std::uint32_t kBits>
HWY_INLINE void ScoreBits(const TrellisTable& table, const ByteScoreArgs& args) {
  const std::byte* behind = args.block + LloydCodesBytes(kBits, args.dim, args.tokens);
  const auto* scales = reinterpret_cast<const std::uint16_t*>(args.scales != nullptr ? args.scales : behind);
  const auto* codes = reinterpret_cast<const std::uint8_t*>(args.block);
  const auto* tops = codes + LloydPlaneBytes(2, args.dim, args.tokens);
  const TrellisExpander<kBits, KeyTrail<false>> expander{table, codes, {16 * args.dim}, tops};
  Score(expander, QueryBatches{args.prepared, LloydQueryWords(kBits, args.dim)}, scales, args);
}

void ScoreAll(const TrellisTable& table, const ByteScoreArgs& args) {
  switch (table.bits()) {
    case 1: return ScoreBits<1>(table, args);
    case 2: return ScoreBits<2>(table, args);
    case 3: return ScoreBits<3>(table, args);
    default: return ScoreBits<4>(table, args);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(ScoreAll);

void TrellisScore(const TrellisTable& table, const ByteScoreArgs& args) noexcept {
  HWY_DYNAMIC_DISPATCH(ScoreAll)(table, args);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
