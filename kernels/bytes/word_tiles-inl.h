// Scores and weighted sums by tiles, of codes whose bytes are their numbers (kPlainBytes of expander-inl.h). They are right
// factors where they lie: 16 groups of 4 dims x 16 tokens (keys), 16 quads of tokens x 16 dims (values). 16-bit queries and
// weights are left factors in two planes of bytes: 128 * high + low. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_BYTES_WORD_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_BYTES_WORD_TILES_INL_H_
#undef KVANT_KERNELS_BYTES_WORD_TILES_INL_H_
#else
#define KVANT_KERNELS_BYTES_WORD_TILES_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <hwy/highway.h>

#include "kernels/bytes/attend.h"
#include "kernels/bytes/weights-inl.h"
#include "kernels/machine/amx-inl.h"
#include "kernels/machine/prefetch.h"
#include "kernels/ufloat16-inl.h"

#if HWY_TARGET == HWY_AVX3_DL

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// `row`: numbers of a row of integers: dims of a query, tokens of weights.
HWY_INLINE bool UsesPlanes(std::size_t queries, std::size_t row) {
  return queries >= kLeastTileQueries && row % 64 == 0 && row <= kMaxTileDim && UsesTiles();
}
HWY_INLINE bool ScoresByPlanes(const ByteScoreArgs& args) {
  return args.tokens % 32 == 0 && UsesPlanes(args.queries, args.dim);
}
/// `run`: tokens whose weights are multiplied together.
HWY_INLINE bool AccumulatesByPlanes(const ByteAccumulateArgs& args, std::size_t run) {
  return args.dim % 32 == 0 && args.tokens % run == 0 && UsesPlanes(args.queries, run);
}

/// Up to 16 rows of integers, their fours in order again.
struct Planes {
  alignas(64) std::int8_t high[kTileRows * kMaxTileDim];
  alignas(64) std::int8_t low[kTileRows * kMaxTileDim];

  /// Rows of `length` / 2 words, adjacent.
  HWY_INLINE void Split(const std::uint32_t* HWY_RESTRICT words, std::size_t rows, std::size_t length) {
    const hn::FixedTag<std::int16_t, 32> d16;
    const hn::FixedTag<std::int8_t, 32> d8;
    HWY_ALIGN static constexpr std::int8_t kOrder[16] = {0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15};
    const auto order = hn::LoadDup128(d8, kOrder);
    for (std::size_t i = 0; i < rows * length; i += 32) {
      const auto x = hn::BitCast(d16, hn::LoadU(hn::FixedTag<std::uint32_t, 16>(), words + i / 2));
      const auto upper = hn::ShiftRight<7>(hn::Add(x, hn::Set(d16, std::int16_t{64})));
      const auto lower = hn::Sub(x, hn::ShiftLeft<7>(upper));
      hn::Store(hn::TableLookupBytes(hn::DemoteTo(d8, upper), order), d8, high + i);
      hn::Store(hn::TableLookupBytes(hn::DemoteTo(d8, lower), order), d8, low + i);
    }
  }
};

/// 64 numbers of each row against two right factors, into tiles 0 and 1 (`b0` with high and low), 2 and 3 (`b1`).
HWY_INLINE void MultiplyPlanes(const Planes& planes, std::size_t length, std::size_t k, const std::byte* b0,
                               const std::byte* b1, std::size_t b_stride) {
  Tiles::Load<4>(planes.high + 64 * k, length);
  Tiles::Load<6>(b0, b_stride);
  Tiles::DotSignedUnsigned<0, 4, 6>();
  Tiles::Load<5>(planes.low + 64 * k, length);
  Tiles::DotSignedUnsigned<1, 5, 6>();
  Tiles::Load<7>(b1, b_stride);
  Tiles::DotSignedUnsigned<2, 4, 7>();
  Tiles::DotSignedUnsigned<3, 5, 7>();
}

/// What MultiplyPlanes left in the tiles, each pair as one sum per row.
struct PlaneSums {
  alignas(64) std::int32_t parts[4][kTileRows * 16];

  static HWY_INLINE void Clear() {
    Tiles::Zero<0>();
    Tiles::Zero<1>();
    Tiles::Zero<2>();
    Tiles::Zero<3>();
  }
  HWY_INLINE void Fetch() {
    Tiles::Store<0>(parts[0]);
    Tiles::Store<1>(parts[1]);
    Tiles::Store<2>(parts[2]);
    Tiles::Store<3>(parts[3]);
  }
  /// The sums of row `q` with right factor `b`, plus `start`, modulo 2^32.
  [[nodiscard]] HWY_INLINE hn::Vec<hn::FixedTag<std::int32_t, 16>> Row(std::size_t q, std::size_t b, std::int32_t start) const {
    const hn::FixedTag<std::int32_t, 16> di;
    const auto upper = hn::ShiftLeft<7>(hn::Load(di, parts[2 * b] + q * 16));
    return hn::Add(hn::Add(upper, hn::Load(di, parts[2 * b + 1] + q * 16)), hn::Set(di, start));
  }
};

/// Planes and sums, where the caller of a kernel has put its scratch.
struct PlaneScratch {
  Planes planes;
  PlaneSums sums;
};

/// Requires: ScoresByPlanes. Bytes are numbers plus `offset`.
template <class Queries>
HWY_INLINE void ScorePlanes(const Queries& queries, const std::uint16_t* scales, int offset, const ByteScoreArgs& args) {
  const hn::FixedTag<float, 16> df;
  const std::size_t dim = args.dim;
  static_assert(sizeof(PlaneScratch) <= ByteScoreScratchBytes(kLeastTileQueries, 64));
  auto& [planes, sums] = *reinterpret_cast<PlaneScratch*>(args.scratch);
  const Tiles tiles;
  Prefetch prefetch(args.next, args.next_bytes, args.tokens / 32);
  for (std::size_t first = 0; first < args.queries; first += kTileRows) {
    const std::size_t count = std::min(kTileRows, args.queries - first);
    const auto rows = queries.From(first);
    planes.Split(rows.words, count, dim);
    for (std::size_t token = 0; token < args.tokens; token += 32) {
      prefetch.Step();
      const std::byte* tile = args.block + token * dim;
      PlaneSums::Clear();
      for (std::size_t k = 0; k < dim / 64; ++k) {
        MultiplyPlanes(planes, dim, k, tile + k * kTileBytes, tile + 16 * dim + k * kTileBytes, kTileRowBytes);
      }
      sums.Fetch();
      for (std::size_t b = 0; b < 2; ++b) {
        const auto scale = LoadUfloat16(df, scales + token + 16 * b);
        for (std::size_t q = 0; q < count; ++q) {
          const auto logit = rows.Logits(df, q, sums.Row(q, b, -offset * rows.Total(q)), scale);
          hn::StoreU(logit, df, args.logits + (first + q) * args.stride + token + 16 * b);
        }
      }
    }
  }
}

/// One run. Requires: AccumulatesByPlanes.
template <class E>
HWY_INLINE void AccumulatePlanes(const ByteAccumulateArgs& args, const Run<E>& run, Prefetch& prefetch) {
  const hn::FixedTag<float, 16> df;
  const std::size_t dim = args.dim;
  static_assert(sizeof(PlaneScratch) <= ByteAccumulateScratchBytes(kLeastTileQueries, 0));
  auto& [planes, sums] = *reinterpret_cast<PlaneScratch*>(run.tiles);
  for (std::size_t first = 0; first < args.queries; first += kTileRows) {
    const std::size_t count = std::min(kTileRows, args.queries - first);
    planes.Split(run.words + first * run.row_words(), count, run.tokens);
    for (std::size_t d = 0; d < dim; d += 32) {
      prefetch.Step();
      PlaneSums::Clear();
      for (std::size_t k = 0; k < run.tokens / 64; ++k) {
        const std::byte* tile = args.block + (run.first + 64 * k) * dim + 4 * d;
        MultiplyPlanes(planes, run.tokens, k, tile, tile + kTileRowBytes, 4 * dim);
      }
      sums.Fetch();
      for (std::size_t q = 0; q < count; ++q) {
        const auto step = hn::Set(df, run.steps[first + q]);
        for (std::size_t b = 0; b < 2; ++b) {
          float* to = args.acc + (first + q) * args.acc_stride + d + 16 * b;
          const auto sum = hn::ConvertTo(df, sums.Row(q, b, -E::kOffset * run.totals[first + q]));
          hn::StoreU(hn::Add(hn::LoadU(df, to), hn::Mul(sum, step)), df, to);
        }
      }
    }
  }
}

}  // namespace kvant::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // HWY_AVX3_DL
#endif  // toggle
