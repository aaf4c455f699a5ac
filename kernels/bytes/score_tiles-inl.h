// Scores by tiles, of codes that expand to bytes: the left factor is 16 queries x 64 dims, the right one 16 groups of 4 dims x
// 16 tokens, which is how keys lie once their codes are numbers. (16-bit numbers: word_tiles-inl.h.) No include guard by
// design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_BYTES_SCORE_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_BYTES_SCORE_TILES_INL_H_
#undef KVANT_KERNELS_BYTES_SCORE_TILES_INL_H_
#else
#define KVANT_KERNELS_BYTES_SCORE_TILES_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/bytes/attend.h"
#include "kernels/bytes/expander-inl.h"
#include "kernels/machine/amx-inl.h"
#include "kernels/machine/prefetch.h"
#include "kernels/ufloat16-inl.h"

#if HWY_TARGET == HWY_AVX3_DL

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Expanded numbers of one step of 64 tokens, and what keeps two of them from lying a multiple of 4 KiB apart: loads of one
/// would wait for stores to the other.
constexpr std::size_t KeyTilesBytes(std::size_t dim) { return 64 * dim + kTileBytes; }

HWY_INLINE bool ScoresByTiles(const ByteScoreArgs& args) {
  return args.queries >= kLeastTileQueries && args.dim % 64 == 0 && args.dim <= kMaxTileDim && args.tokens % 64 == 0 &&
         UsesTiles();
}

/// The numbers of four groups of dims, from group `first` on, of the step's 64 tokens, which begin at field kPlace of a tile:
/// field s is dim / 4 rows of 64 bytes from to + s * 16 * dim on.
template <std::size_t kPlace, class E, class T>
HWY_INLINE void ExpandKeys(const E& expander, const T& tables, std::size_t tile, std::size_t first, std::size_t dim,
                           std::uint8_t* HWY_RESTRICT to) {
  const CodeTag d8;
#pragma GCC unroll 4
  for (std::size_t g = first; g < first + 4; ++g) {
    ForEachField<kPlace, 4>(d8, expander, tables, tile, g * 64,
                            [&](std::size_t s, auto numbers) HWY_ATTR { hn::Store(numbers, d8, to + s * 16 * dim + g * 64); });
  }
}

/// Dims 64 * k.. of one batch of queries with field kField of a step.
template <int kField>
HWY_INLINE void MultiplyKeys(const std::uint8_t* HWY_RESTRICT numbers, const std::uint32_t* words, std::size_t dim,
                             std::size_t k) {
  if (kField == 0) Tiles::Load<4>(words + 16 * k, dim);
  if (k == 0) Tiles::Zero<kField>();
  Tiles::Load<6 + kField % 2>(numbers + kField * 16 * dim + k * kTileBytes, kTileRowBytes);
  Tiles::DotSigned<kField, 4, 6 + kField % 2>();
}

/// Sums of one step and one batch of queries, and where its logits go: they are turned into floats while the next ones are
/// multiplied.
template <class Rows>
struct KeySums {
  std::int32_t* sums = nullptr;  ///< of four tiles
  Rows rows = {};
  std::size_t queries = 0;
  const std::uint16_t* scales = nullptr;
  float* logits = nullptr;
};

template <class Rows>
HWY_INLINE void StoreLogits(const KeySums<Rows>& from, std::size_t stride) {
  const hn::FixedTag<float, 16> df;
  const hn::FixedTag<std::int32_t, 16> di;
  hn::Vec<decltype(df)> scales[4];
  for (std::size_t s = 0; s < 4; ++s) scales[s] = LoadUfloat16(df, from.scales + 16 * s);
  for (std::size_t q = 0; q < from.queries; ++q) {
    float* HWY_RESTRICT logits = from.logits + q * stride;
#pragma GCC unroll 4
    for (std::size_t s = 0; s < 4; ++s) {
      const auto sum = hn::Load(di, from.sums + (s * kTileRows + q) * 16);
      hn::StoreU(from.rows.Logits(df, q, sum, scales[s]), df, logits + 16 * s);
    }
  }
}

/// One step is expanded while the one before it is multiplied with the first 16 queries; others meet it once it is expanded.
template <class E, class Queries>
HWY_INLINE void ScoreTiles(const E& expander, const Queries& queries, const std::uint16_t* scales, const ByteScoreArgs& args) {
  const std::size_t dim = args.dim;
  auto* numbers = reinterpret_cast<std::uint8_t*>(args.scratch);
  KeySums<decltype(queries.From(0))> sums[2];
  sums[0].sums = reinterpret_cast<std::int32_t*>(args.scratch + 2 * KeyTilesBytes(dim));
  sums[1].sums = sums[0].sums + 4 * kTileRows * 16;
  std::size_t products = 0;  // of a step and a batch
  const Tiles tiles;
  const auto tables = expander.Tables(CodeTag(), 0);
  Prefetch prefetch(args.next, args.next_bytes, args.tokens / 64 * (dim / 16));
  const auto expand = [&](std::size_t token, std::size_t group, std::uint8_t* to) HWY_ATTR {
    prefetch.Step();
    const std::size_t tile = token / (16 * E::kFields);
    if constexpr (E::kFields == 8) {
      if (token % 128 != 0) return ExpandKeys<4>(expander, tables, tile, group, dim, to);
    }
    ExpandKeys<0>(expander, tables, tile, group, dim, to);
  };
  for (std::size_t token = 0; token <= args.tokens; token += 64) {
    const bool more = token < args.tokens;
    std::uint8_t* fresh = numbers + token / 64 % 2 * KeyTilesBytes(dim);
    const std::uint8_t* ready = numbers + (token / 64 + 1) % 2 * KeyTilesBytes(dim);
    if (token == 0) {
      for (std::size_t group = 0; group < dim / 4; group += 4) expand(token, group, fresh);
      continue;
    }
    for (std::size_t first = 0; first < args.queries; first += kTileRows) {
      const auto rows = queries.From(first);
      const bool expanding = more && first == 0;
      for (std::size_t k = 0; k < dim / 64; ++k) {
        if (expanding) expand(token, 16 * k, fresh);
        MultiplyKeys<0>(ready, rows.words, dim, k);
        if (expanding) expand(token, 16 * k + 4, fresh);
        MultiplyKeys<1>(ready, rows.words, dim, k);
        if (expanding) expand(token, 16 * k + 8, fresh);
        MultiplyKeys<2>(ready, rows.words, dim, k);
        if (expanding) expand(token, 16 * k + 12, fresh);
        MultiplyKeys<3>(ready, rows.words, dim, k);
      }
      auto& now = sums[products % 2];
      Tiles::Store<0>(now.sums);
      Tiles::Store<1>(now.sums + kTileRows * 16);
      Tiles::Store<2>(now.sums + 2 * kTileRows * 16);
      Tiles::Store<3>(now.sums + 3 * kTileRows * 16);
      now.rows = rows;
      now.queries = std::min(kTileRows, args.queries - first);
      now.scales = scales + token - 64;
      now.logits = args.logits + first * args.stride + token - 64;
      if (products > 0) StoreLogits(sums[(products + 1) % 2], args.stride);
      ++products;
    }
  }
  StoreLogits(sums[(products + 1) % 2], args.stride);
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // HWY_AVX3_DL
#endif  // toggle
