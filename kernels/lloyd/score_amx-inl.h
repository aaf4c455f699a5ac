// Scores of up to 4 bits by tiles: the left factor is 16 queries x 64 dims, the right one 16 groups of 4 dims x 16 tokens,
// which is how keys lie once their codes are centroids. No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_LLOYD_SCORE_AMX_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_LLOYD_SCORE_AMX_INL_H_
#undef KVANT_KERNELS_LLOYD_SCORE_AMX_INL_H_
#else
#define KVANT_KERNELS_LLOYD_SCORE_AMX_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/lloyd/dot-inl.h"
#include "kernels/lloyd/field-inl.h"
#include "kernels/lloyd/key_step.h"
#include "kernels/lloyd/query.h"
#include "kernels/lloyd/score.h"
#include "kernels/machine/amx-inl.h"
#include "kernels/machine/prefetch.h"
#include "kernels/ufloat16-inl.h"

#if HWY_TARGET == HWY_AVX3_DL

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Expanded centroids of one step of 64 tokens, and what keeps two of them from lying a multiple of 4 KiB apart: loads of one
/// would wait for stores to the other.
constexpr std::size_t KeyTilesBytes(std::size_t dim) { return 64 * dim + kTileBytes; }

HWY_INLINE bool ScoresByTiles(const ByteScoreArgs& args) {
  return args.queries >= kLeastTileQueries && args.dim % 64 == 0 && args.dim <= kMaxTileDim && args.tokens % 64 == 0 &&
         UsesTiles();
}

/// Four groups' centroids, from group `first` on: subtile s is dim / 4 rows of 64 bytes from to + s * 16 * dim on.
template <std::uint32_t kBits, std::size_t kFirst>
HWY_INLINE void ExpandKeys(const FieldTables<kBits>& tables, const KeyStep& step, std::size_t first, std::size_t dim,
                           std::uint8_t* HWY_RESTRICT to) {
  const ByteTag64 d8;
#pragma GCC unroll 4
  for (std::size_t g = first; g < first + 4; ++g) {
    const auto a = hn::Load(d8, step.codes + g * 64);
    auto b = a;
    if constexpr (kBits == 4) b = hn::Load(d8, step.codes + g * 64 + step.tile_bytes);
    if constexpr (kBits == 3) b = hn::Load(d8, step.more + g * 64);
    Bytes64 centroids[4];
    Fields<kBits, kFirst, 4>(tables, a, b, centroids);
#pragma GCC unroll 4
    for (std::size_t s = 0; s < 4; ++s) hn::Store(centroids[s], d8, to + s * 16 * dim + g * 64);
  }
}

/// Dims 64 * k.. of one batch of queries with subtile kSubtile of a step.
template <int kSubtile>
HWY_INLINE void MultiplyKeys(const std::uint8_t* HWY_RESTRICT centroids, const std::uint32_t* words, std::size_t dim,
                             std::size_t k) {
  if (kSubtile == 0) Tiles::Load<4>(words + 16 * k, dim);
  if (k == 0) Tiles::Zero<kSubtile>();
  Tiles::Load<6 + kSubtile % 2>(centroids + kSubtile * 16 * dim + k * kTileBytes, kTileRowBytes);
  Tiles::DotSigned<kSubtile, 4, 6 + kSubtile % 2>();
}

/// Sums of one step and one batch of queries, and where its logits go: they are turned into floats while the next ones are
/// multiplied.
struct KeySums {
  std::int32_t* sums = nullptr;  ///< of four tiles
  const LloydQueryHead* head = nullptr;
  std::size_t queries = 0;
  const std::uint16_t* scales = nullptr;
  float* logits = nullptr;
};

HWY_INLINE void StoreLogits(const KeySums& from, std::size_t stride) {
  const hn::FixedTag<float, 16> df;
  const hn::FixedTag<std::int32_t, 16> di;
  hn::Vec<decltype(df)> scales[4];
  for (std::size_t s = 0; s < 4; ++s) scales[s] = LoadUfloat16(df, from.scales + 16 * s);
  for (std::size_t q = 0; q < from.queries; ++q) {
    float* HWY_RESTRICT logits = from.logits + q * stride;
#pragma GCC unroll 4
    for (std::size_t s = 0; s < 4; ++s) {
      const auto sum = hn::Load(di, from.sums + (s * kTileRows + q) * 16);
      hn::StoreU(Logits(df, sum, scales[s], from.head->scale[q], from.head->bias[q]), df, logits + 16 * s);
    }
  }
}

/// One step is expanded while the one before it is multiplied with the first 16 queries; others meet it once it is expanded.
template <std::uint32_t kBits>
HWY_INLINE void ScoreTiles(const LloydTable& table, const ByteScoreArgs& args) {
  const std::size_t dim = args.dim, batch_bytes = LloydQueryBatchBytes(kBits, dim);
  const auto* scales = reinterpret_cast<const std::uint16_t*>(args.block + LloydCodesBytes(kBits, dim, args.tokens));
  auto* centroids = reinterpret_cast<std::uint8_t*>(args.scratch);
  KeySums sums[2];
  sums[0].sums = reinterpret_cast<std::int32_t*>(args.scratch + 2 * KeyTilesBytes(dim));
  sums[1].sums = sums[0].sums + 4 * kTileRows * 16;
  std::size_t products = 0;  // of a step and a batch
  const Tiles tiles;
  const FieldTables<kBits> tables(table, 0);
  Prefetch prefetch(args.next, args.next_bytes, args.tokens / 64 * (dim / 16));
  const auto expand = [&](const KeyStep& step, std::size_t group, std::uint8_t* to) HWY_ATTR {
    prefetch.Step();
    if constexpr (kBits % 2 == 1) {
      if (step.odd) return ExpandKeys<kBits, 4>(tables, step, group, dim, to);
    }
    ExpandKeys<kBits, 0>(tables, step, group, dim, to);
  };
  for (std::size_t token = 0; token <= args.tokens; token += 64) {
    const bool more = token < args.tokens;
    const KeyStep step = more ? KeyStepAt<kBits>(BlockOf(args), dim, args.tokens, token) : KeyStep{};
    std::uint8_t* fresh = centroids + token / 64 % 2 * KeyTilesBytes(dim);
    const std::uint8_t* ready = centroids + (token / 64 + 1) % 2 * KeyTilesBytes(dim);
    if (token == 0) {
      for (std::size_t group = 0; group < dim / 4; group += 4) expand(step, group, fresh);
      continue;
    }
    for (std::size_t first = 0; first < args.queries; first += kLanes) {
      const std::byte* batch = args.prepared + first / kLanes * batch_bytes;
      const auto* words = reinterpret_cast<const std::uint32_t*>(batch + sizeof(LloydQueryHead));
      const bool expanding = more && first == 0;
      for (std::size_t k = 0; k < dim / 64; ++k) {
        if (expanding) expand(step, 16 * k, fresh);
        MultiplyKeys<0>(ready, words, dim, k);
        if (expanding) expand(step, 16 * k + 4, fresh);
        MultiplyKeys<1>(ready, words, dim, k);
        if (expanding) expand(step, 16 * k + 8, fresh);
        MultiplyKeys<2>(ready, words, dim, k);
        if (expanding) expand(step, 16 * k + 12, fresh);
        MultiplyKeys<3>(ready, words, dim, k);
      }
      KeySums& now = sums[products % 2];
      Tiles::Store<0>(now.sums);
      Tiles::Store<1>(now.sums + kTileRows * 16);
      Tiles::Store<2>(now.sums + 2 * kTileRows * 16);
      Tiles::Store<3>(now.sums + 3 * kTileRows * 16);
      now.head = reinterpret_cast<const LloydQueryHead*>(batch);
      now.queries = std::min(kLanes, args.queries - first);
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
