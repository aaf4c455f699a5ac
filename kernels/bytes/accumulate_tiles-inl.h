// Weighted sums by tiles, of codes that expand to bytes: the left factor is the weights of 16 queries for 64 tokens, the right
// one 16 quads of tokens x 16 dims, which is how values lie once their codes are numbers. (16-bit numbers: word_tiles-inl.h.)
// No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_BYTES_ACCUMULATE_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_BYTES_ACCUMULATE_TILES_INL_H_
#undef KVANT_KERNELS_BYTES_ACCUMULATE_TILES_INL_H_
#else
#define KVANT_KERNELS_BYTES_ACCUMULATE_TILES_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/bytes/attend.h"
#include "kernels/bytes/expander-inl.h"
#include "kernels/bytes/weights-inl.h"
#include "kernels/machine/amx-inl.h"
#include "kernels/machine/prefetch.h"

#if HWY_TARGET == HWY_AVX3_DL

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// One tile of sums for every 16 queries.
inline constexpr std::size_t kMaxTileQueries = 64;

/// Whether whole runs can go by tiles; a block's last run may be shorter, but is a multiple of 64 tokens too.
HWY_INLINE bool AccumulatesByTiles(const ByteAccumulateArgs& args) {
  return args.queries >= kLeastTileQueries && args.queries <= kMaxTileQueries && args.dim % 16 == 0 && args.tokens % 64 == 0 &&
         UsesTiles();
}

/// 64 tokens of 16 dims: one tile register, four rows of 64 bytes for every 16 tokens.
template <class E, class T>
HWY_INLINE void ExpandValueTile(const E& expander, const T& tables, std::size_t token, std::size_t byte, Prefetch& prefetch,
                                std::uint8_t* HWY_RESTRICT to) {
  const CodeTag d8;
  const auto expand = [&]<std::size_t kPlace>(std::size_t at) HWY_ATTR {
    prefetch.Step();
    const std::size_t tile = (token + at) / (4 * E::kFields);
    ForEachField<kPlace, 4>(d8, expander, tables, tile, byte,
                            [&](std::size_t f, auto numbers) HWY_ATTR { hn::Store(numbers, d8, to + at * 16 + f * 64); });
  };
  constexpr std::size_t kOther = E::kFields == 8 ? 4 : 0;
#pragma GCC unroll 2
  for (std::size_t at = 0; at < 64; at += 32) {
    expand.template operator()<0>(at);
    expand.template operator()<kOther>(at + 16);
  }
}

/// Weights of 16 queries for 64 tokens, from token 64 * half of the run on, with the numbers in tile 6.
template <int kSum, class E>
HWY_INLINE void MultiplyValues(const Run<E>& run, std::size_t query, std::size_t half) {
  Tiles::Load<4 + kSum % 2>(run.words + query * run.row_words() + half * 16, run.row_words() * sizeof(std::uint32_t));
  if (half == 0) Tiles::Zero<kSum>();
  Tiles::DotUnsigned<kSum, 4 + kSum % 2, 6>();
}

/// Adds sums of 16 dims to the accumulators.
template <class E>
HWY_INLINE void AddSums(const ByteAccumulateArgs& args, const Run<E>& run, const std::int32_t* HWY_RESTRICT sums,
                        std::size_t dim) {
  const hn::FixedTag<float, 16> df;
  const hn::FixedTag<std::int32_t, 16> di;
  float* HWY_RESTRICT to = args.acc + dim;
  for (std::size_t q = 0; q < args.queries; ++q, to += args.acc_stride) {
    const auto product = hn::Mul(hn::ConvertTo(df, hn::Load(di, sums + q * 16)), hn::Set(df, run.steps[q]));
    hn::StoreU(hn::Add(hn::LoadU(df, to), product), df, to);
  }
}

/// One run, 16 dims at a time: expanded while the 16 before them are multiplied, and added while the next ones are.
template <class E>
HWY_INLINE void AccumulateTiles(const E& expander, const ByteAccumulateArgs& args, const Run<E>& run, Prefetch& prefetch) {
  const std::size_t columns = args.dim / 16, halves = run.tokens / 64, queries = args.queries;
  auto* first = reinterpret_cast<std::uint8_t*>(run.tiles);
  std::uint8_t* numbers[2] = {first, first + 2 * kTileBytes};
  auto* first_sums = reinterpret_cast<std::int32_t*>(first + 4 * kTileBytes);
  std::int32_t* sums[2] = {first_sums, first_sums + (queries + 15) / 16 * 16 * 16};
  const auto tables = expander.Tables(CodeTag(), 0);
  for (std::size_t column = 0; column < columns + 2; ++column) {
    const bool multiply = column > 0 && column <= columns;
    std::int32_t* now = sums[column % 2];
    for (std::size_t half = 0; half < halves; ++half) {
      if (column < columns) {
        ExpandValueTile(expander, tables, run.first + 64 * half, column * 64, prefetch,
                        numbers[column % 2] + half * kTileBytes);
      }
      if (!multiply) continue;
      Tiles::Load<6>(numbers[(column + 1) % 2] + half * kTileBytes, kTileRowBytes);
      MultiplyValues<0>(run, 0, half);
      if (queries > 16) MultiplyValues<1>(run, 16, half);
      if (queries > 32) MultiplyValues<2>(run, 32, half);
      if (queries > 48) MultiplyValues<3>(run, 48, half);
    }
    if (multiply) {
      Tiles::Store<0>(now);
      if (queries > 16) Tiles::Store<1>(now + 16 * 16);
      if (queries > 32) Tiles::Store<2>(now + 32 * 16);
      if (queries > 48) Tiles::Store<3>(now + 48 * 16);
    }
    if (column > 1) AddSums(args, run, sums[(column + 1) % 2], (column - 2) * 16);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // HWY_AVX3_DL
#endif  // toggle
