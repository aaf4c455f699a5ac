#include <cstddef>
#include <cstdint>

#include "kernels/int8/int8.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/int8/attend.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/bytes/accumulate-inl.h"
#include "kernels/bytes/score-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Masking gives the 1st and 3rd code of each four, shifting the 2nd and 4th.
struct Int8Expander {
  static constexpr bool kWords = true;
  static constexpr std::size_t kFields = 1;
  static constexpr int kOffset = 128;
  static constexpr int kWeightMax = kInt16Limit;
  static constexpr std::size_t kWeightRun = 0;
  static constexpr bool kPlainBytes = true;

  const std::byte* codes;
  std::size_t tile_bytes;

  struct None {};
  template <class D8>
  HWY_INLINE None Tables(D8, std::uint8_t) const {
    return {};
  }

  template <std::size_t kField, class D8>
  HWY_INLINE Pairs<D8> Expand(D8 d8, None, std::size_t tile, std::size_t byte) const {
    return WidenUnsigned(d8, hn::LoadU(d8, reinterpret_cast<const std::uint8_t*>(codes) + tile * tile_bytes + byte));
  }
};

/// Queries from `first` on.
struct Int16Rows {
  const Int16Row* rows;
  const std::uint32_t* words;  ///< pairs of integers
  std::size_t row_words;

  [[nodiscard]] HWY_INLINE Int16Rows From(std::size_t i) const { return {rows + i, words + i * row_words, row_words}; }
  [[nodiscard]] HWY_INLINE std::int32_t Total(std::size_t q) const { return rows[q].total; }
  template <class DF>
  [[nodiscard]] HWY_INLINE hn::Vec<DF> Logits(DF df, std::size_t q, hn::Vec<hn::RebindToSigned<DF>> sums,
                                              hn::Vec<DF> token_scales) const {
    return hn::Mul(hn::Mul(hn::ConvertTo(df, sums), hn::Set(df, rows[q].step)), token_scales);
  }
};

template <class Args>
HWY_INLINE const std::uint16_t* ScalesOf(const Args& args) {
  return reinterpret_cast<const std::uint16_t*>(args.block + args.tokens * args.dim);  // even: dim is a multiple of 8
}

void ScoreTarget(const ByteScoreArgs& args) {
  const auto* rows = reinterpret_cast<const Int16Row*>(args.prepared);
  const Int16Rows queries{rows, reinterpret_cast<const std::uint32_t*>(rows + args.queries), args.dim / 2};
  Score(Int8Expander{args.block, kInt8KeyTile * args.dim}, queries, ScalesOf(args), args);
}

void AccumulateTarget(const ByteAccumulateArgs& args) {
  Accumulate(Int8Expander{args.block, kInt8ValueTile * args.dim}, ScalesOf(args), args);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(ScoreTarget);
HWY_EXPORT(AccumulateTarget);

void ScoreInt8(const ByteScoreArgs& args) noexcept { HWY_DYNAMIC_DISPATCH(ScoreTarget)(args); }

void AccumulateInt8(const ByteAccumulateArgs& args) noexcept { HWY_DYNAMIC_DISPATCH(AccumulateTarget)(args); }

}  // namespace kvant::kernels
#endif  // HWY_ONCE
