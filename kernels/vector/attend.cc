#include "kernels/vector/attend.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/vector/attend.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/bytes/accumulate-inl.h"
#include "kernels/bytes/score-inl.h"
#include "kernels/vector/expander-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class Args>
HWY_INLINE const std::uint16_t* ScalesOf(const Args& args) {
  return reinterpret_cast<const std::uint16_t*>(args.block + VectorCodesBytes(args.dim, args.tokens));
}

template <bool kOdd>
HWY_INLINE void ScoreBlock(const VectorCodebook& codebook, const ByteScoreArgs& args) {
  const auto* codes = reinterpret_cast<const std::uint8_t*>(args.block);
  Score(VectorExpander<kOdd, false>{codebook, codes, 16 * args.dim / kVectorDims}, QueryBatches{args.prepared, args.dim / 4},
        ScalesOf(args), args);
}

template <bool kOdd>
HWY_INLINE void AccumulateBlock(const VectorCodebook& codebook, const ByteAccumulateArgs& args) {
  const auto* codes = reinterpret_cast<const std::uint8_t*>(args.block);
  const std::uint16_t* scales = ScalesOf(args);
  const std::size_t tile_bytes = 4 * args.dim / kVectorDims;
  ByteAccumulateArgs filled = args;
  filled.dim = VectorAccumulatorFloats(args.dim);
  if (filled.dim == args.dim) return Accumulate(VectorExpander<kOdd, false>{codebook, codes, tile_bytes}, scales, filled);
  Accumulate(VectorExpander<kOdd, true>{codebook, codes, tile_bytes}, scales, filled);
}

void ScoreTarget(const VectorCodebook& codebook, const ByteScoreArgs& args) {
  codebook.odd ? ScoreBlock<true>(codebook, args) : ScoreBlock<false>(codebook, args);
}

void AccumulateTarget(const VectorCodebook& codebook, const ByteAccumulateArgs& args) {
  codebook.odd ? AccumulateBlock<true>(codebook, args) : AccumulateBlock<false>(codebook, args);
}

/// Number j of sub-vector i stands at 16 j + i: four sub-vectors at a time are interleaved.
void OrderTarget(const float* HWY_RESTRICT acc, std::size_t dim, float* HWY_RESTRICT row) {
  const hn::FixedTag<float, 4> d;
  for (std::size_t at = 0; at < dim; at += 16) {
    const float* from = acc + at / 64 * 64 + at % 64 / 4;
    hn::StoreInterleaved4(hn::LoadU(d, from), hn::LoadU(d, from + 16), hn::LoadU(d, from + 32), hn::LoadU(d, from + 48), d,
                          row + at);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(ScoreTarget);
HWY_EXPORT(AccumulateTarget);
HWY_EXPORT(OrderTarget);

void VectorScore(const VectorCodebook& codebook, const ByteScoreArgs& args) noexcept {
  HWY_DYNAMIC_DISPATCH(ScoreTarget)(codebook, args);
}

void VectorAccumulate(const VectorCodebook& codebook, const ByteAccumulateArgs& args) noexcept {
  HWY_DYNAMIC_DISPATCH(AccumulateTarget)(codebook, args);
}

void VectorSumsInOrder(const float* acc, std::size_t dim, float* row) noexcept {
  HWY_DYNAMIC_DISPATCH(OrderTarget)(acc, dim, row);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
