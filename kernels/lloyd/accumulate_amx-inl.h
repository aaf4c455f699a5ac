// Weighted sums of up to 4 bits by tiles: the left factor is the weights of 16 queries for 64 tokens, the right one 16 quads of
// tokens x 16 dims, which is how values lie once their codes are centroids. No include guard by design: see Highway's
// foreach_target.
#if defined(KVANT_KERNELS_LLOYD_ACCUMULATE_AMX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_LLOYD_ACCUMULATE_AMX_INL_H_
#undef KVANT_KERNELS_LLOYD_ACCUMULATE_AMX_INL_H_
#else
#define KVANT_KERNELS_LLOYD_ACCUMULATE_AMX_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/lloyd/accumulate.h"
#include "kernels/lloyd/field-inl.h"
#include "kernels/lloyd/value_codes.h"
#include "kernels/lloyd/weights-inl.h"
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

/// 16 tokens of 16 dims: four rows of 64 bytes.
template <std::uint32_t kBits, std::size_t kHalf>
HWY_INLINE void ExpandValues(const FieldTables<kBits>& tables, const ValueCodes& at, std::size_t offset, std::size_t step,
                             std::uint8_t* HWY_RESTRICT to) {
  const ByteTag64 d8;
  const std::uint8_t* codes = at.CodesAt<kBits>(step) + offset;
  const auto a = hn::Load(d8, codes);
  auto b = a;
  if constexpr (kBits == 4) b = hn::Load(d8, codes + at.tile_bytes);
  if constexpr (kBits == 3) b = hn::Load(d8, at.TopsAt(step) + offset);
  Bytes64 centroids[4];
  Fields<kBits, kBits == 4 ? 0 : 4 * kHalf, 4>(tables, a, b, centroids);
#pragma GCC unroll 4
  for (std::size_t f = 0; f < 4; ++f) hn::Store(centroids[f], d8, to + f * 64);
}

/// 64 tokens of 16 dims: one tile.
template <std::uint32_t kBits>
HWY_INLINE void ExpandValueTile(const FieldTables<kBits>& tables, const ValueCodes& at, std::size_t offset, std::size_t step,
                                Prefetch& prefetch, std::uint8_t* HWY_RESTRICT to) {
  constexpr std::size_t kOther = kBits % 2;  // 1 and 3 bits: eight fields
#pragma GCC unroll 2
  for (std::size_t s = 0; s < 4; s += 2) {
    prefetch.Step();
    ExpandValues<kBits, 0>(tables, at, offset, step + s, to + s * 256);
    prefetch.Step();
    ExpandValues<kBits, kOther>(tables, at, offset, step + s + 1, to + (s + 1) * 256);
  }
}

/// Weights of 16 queries for 64 tokens, from token 64 * half of the run on, with the centroids in tile 6.
template <std::uint32_t kBits, int kSum>
HWY_INLINE void MultiplyValues(const Run& run, std::size_t query, std::size_t half) {
  Tiles::Load<4 + kSum % 2>(run.words + query * kWordsPerQuery<kBits> + half * 16,
                            kWordsPerQuery<kBits> * sizeof(std::uint32_t));
  if (half == 0) Tiles::Zero<kSum>();
  Tiles::DotUnsigned<kSum, 4 + kSum % 2, 6>();
}

/// Adds sums of 16 dims to the accumulators.
HWY_INLINE void AddSums(const ByteAccumulateArgs& args, const Run& run, const std::int32_t* HWY_RESTRICT sums,
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
template <std::uint32_t kBits>
HWY_INLINE void AccumulateTiles(const LloydTable& table, const ByteAccumulateArgs& args, const Run& run, const ValueCodes& at,
                                Prefetch& prefetch) {
  const std::size_t columns = args.dim / 16, halves = at.steps / 4, queries = args.queries;
  auto* first = reinterpret_cast<std::uint8_t*>(run.tiles);
  std::uint8_t* centroids[2] = {first, first + 2 * kTileBytes};
  auto* first_sums = reinterpret_cast<std::int32_t*>(first + 4 * kTileBytes);
  std::int32_t* sums[2] = {first_sums, first_sums + (queries + 15) / 16 * 16 * 16};
  const FieldTables<kBits> tables(table, 0);
  for (std::size_t column = 0; column < columns + 2; ++column) {
    const bool multiply = column > 0 && column <= columns;
    std::int32_t* now = sums[column % 2];
    for (std::size_t half = 0; half < halves; ++half) {
      if (column < columns) {
        ExpandValueTile(tables, at, column * 64, 4 * half, prefetch, centroids[column % 2] + half * kTileBytes);
      }
      if (!multiply) continue;
      Tiles::Load<6>(centroids[(column + 1) % 2] + half * kTileBytes, kTileRowBytes);
      MultiplyValues<kBits, 0>(run, 0, half);
      if (queries > 16) MultiplyValues<kBits, 1>(run, 16, half);
      if (queries > 32) MultiplyValues<kBits, 2>(run, 32, half);
      if (queries > 48) MultiplyValues<kBits, 3>(run, 48, half);
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
