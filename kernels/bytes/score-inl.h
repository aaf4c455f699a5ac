// Logits from codes of keys, for whichever expander: integer sums of its numbers and integer queries, exact on every target.
// No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_BYTES_SCORE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_BYTES_SCORE_INL_H_
#undef KVANT_KERNELS_BYTES_SCORE_INL_H_
#else
#define KVANT_KERNELS_BYTES_SCORE_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "hwy/highway.h"
#include "kernels/bytes/attend.h"
#include "kernels/bytes/expander-inl.h"
#include "kernels/bytes/queries-inl.h"
#include "kernels/bytes/score_tiles-inl.h"
#include "kernels/bytes/word_tiles-inl.h"
#include "kernels/machine/prefetch.h"
#include "kernels/ufloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Fields of 16 tokens whose sums stay in registers together.
template <class E, std::size_t kQueries>
inline constexpr std::size_t kFieldsAtOnce = kQueries == kManyQueries || (E::kWords && !HWY_CAP_GE512 && kQueries != 1) ? 2 : 4;

/// kCount fields from field kPlace of tiles from `tile` on, whose tokens begin at `token`, against kQueries queries.
template <std::size_t kPlace, std::size_t kCount, std::size_t kQueries, class E, class Rows>
HWY_INLINE void ScoreFields(const E expander, const ByteScoreArgs& args, const Rows& queries, const std::uint16_t* scales,
                            std::size_t tile, std::size_t token, float* HWY_RESTRICT logits, Prefetch& prefetch) {
  const CodeTag d8;
  using D8 = CodeTag;
  const SumTag<D8> di;
  const hn::RebindToFloat<SumTag<D8>> df;
  constexpr int kOffset = ScoreOffset<E>();
  const std::size_t groups = args.dim / 4, row_words = queries.row_words;
  const auto tables = expander.Tables(d8, static_cast<std::uint8_t>(E::kWords ? 0 : kOffset));
  const std::size_t parts = 64 / hn::Lanes(d8);  // of a tile's 64 bytes
  for (std::size_t pass = 0; pass < parts; ++pass) {
    // Where fields share bytes, the same part of all of them; else one tile after the other, so that each line is read once.
    const auto tile_of = [&](std::size_t s) { return E::kFields == 1 ? (pass * kCount + s) / parts : s; };
    const auto part_of = [&](std::size_t s) { return (E::kFields == 1 ? (pass * kCount + s) % parts : pass) * hn::Lanes(d8); };
    hn::Vec<SumTag<D8>> sums[kCount][kQueries];
#pragma GCC unroll 8
    for (std::size_t q = 0; q < kQueries; ++q) {
#pragma GCC unroll 4
      for (std::size_t s = 0; s < kCount; ++s) sums[s][q] = hn::Set(di, -kOffset * queries.Total(q));
    }
    const std::uint32_t* HWY_RESTRICT words = queries.words;
    for (std::size_t g = 0; g < groups; ++g, words += kWordsPerFour<E>) {
      if (pass == 0) prefetch.Step();
      decltype(ScoreFactors<E>(d8, ExpandField<0>(d8, expander, tables, 0, 0))) factors[kCount];
      if constexpr (E::kFields == 1) {
#pragma GCC unroll 4
        for (std::size_t s = 0; s < kCount; ++s) {
          factors[s] =
              ScoreFactors<E>(d8, expander.template Expand<0>(d8, tables, tile + kPlace + tile_of(s), g * 64 + part_of(s)));
        }
      } else {
        ForEachField<kPlace, kCount>(d8, expander, tables, tile, g * 64 + part_of(0),
                                     [&](std::size_t s, auto numbers) HWY_ATTR { factors[s] = ScoreFactors<E>(d8, numbers); });
      }
      if constexpr (kHasVnni && !E::kWords) {
        // Four numbers of a query are an operand in memory, as cheap for every field; numbers of codes are wanted for a short
        // time only.
#pragma GCC unroll 4
        for (std::size_t s = 0; s < kCount; ++s) {
#pragma GCC unroll 8
          for (std::size_t q = 0; q < kQueries; ++q)
            sums[s][q] = Dot(d8, sums[s][q], factors[s], QueryFactors<E>(d8, words + q * row_words));
        }
      } else {
#pragma GCC unroll 8
        for (std::size_t q = 0; q < kQueries; ++q) {
          const auto numbers = QueryFactors<E>(d8, words + q * row_words);
#pragma GCC unroll 4
          for (std::size_t s = 0; s < kCount; ++s) sums[s][q] = Dot(d8, sums[s][q], factors[s], numbers);
        }
      }
    }
#pragma GCC unroll 4
    for (std::size_t s = 0; s < kCount; ++s) {
      const std::size_t at = token + 16 * tile_of(s) + part_of(s) / 4;
      const auto scale = LoadUfloat16(df, scales + at);
#pragma GCC unroll 8
      for (std::size_t q = 0; q < kQueries; ++q)
        hn::StoreU(queries.Logits(df, q, sums[s][q], scale), df, logits + q * args.stride + at);
    }
  }
}

/// All tokens of the block against kQueries queries.
template <std::size_t kQueries, class E, class Rows>
HWY_INLINE void ScoreQueries(const E& expander, const ByteScoreArgs& args, const Rows& queries, const std::uint16_t* scales,
                             float* HWY_RESTRICT logits, Prefetch& prefetch) {
  constexpr std::size_t kFields = E::kFields, kCount = kFieldsAtOnce<E, kQueries>;
  std::size_t tile = 0, token = 0;
  const auto score = [&]<std::size_t kPlace, std::size_t kFew>() HWY_ATTR {
    if constexpr (kPlace < kFields) {
      ScoreFields<kPlace, kFew, kQueries>(expander, args, queries, scales, tile, token + 16 * kPlace, logits, prefetch);
    }
  };
  constexpr std::size_t kStep = std::max(kFields, kCount);  // fields whose places in their tiles are known here
  for (; token + 16 * kStep <= args.tokens; token += 16 * kStep, tile += kStep / kFields) {
    score.template operator()<0, kCount>();
    score.template operator()<kCount, kCount>();
    score.template operator()<2 * kCount, kCount>();
    score.template operator()<3 * kCount, kCount>();
  }
  if constexpr (kFields < kCount) {
    for (; token < args.tokens; token += 16 * kFields, ++tile) score.template operator()<0, kFields>();
  }
}

/// Logits of all queries: `queries.From(i)` gives query i's rows (queries-inl.h). `scales` are the tokens'.
template <class E, class Queries>
HWY_INLINE void Score(const E& expander, const Queries& queries, const std::uint16_t* scales, const ByteScoreArgs& args) {
#if HWY_TARGET == HWY_AVX3_DL
  if constexpr (!E::kWords) {
    if (ScoresByTiles(args)) return ScoreTiles(expander, queries, scales, args);
  } else if constexpr (E::kPlainBytes) {
    if (ScoresByPlanes(args)) return ScorePlanes(queries, scales, E::kOffset, args);
  }
#endif
  // The first queries' pass over the block does the prefetching.
  Prefetch prefetch(args.next, args.next_bytes, (args.tokens + 63) / 64 * (args.dim / 4));
  constexpr std::size_t kFew = kQueriesAtOnce<E>;
  for (std::size_t i = 0; i < args.queries;) {
    const std::size_t left = args.queries - i;
    const auto rows = queries.From(i);
    float* logits = args.logits + i * args.stride;
    if (MultipliesBytes<E>() && left >= kManyQueries) {
      if constexpr (MultipliesBytes<E>()) ScoreQueries<kManyQueries>(expander, args, rows, scales, logits, prefetch);
      i += kManyQueries;
    } else if (left >= kFew) {
      ScoreQueries<kFew>(expander, args, rows, scales, logits, prefetch);
      i += kFew;
    } else if (kFew > 2 && left >= 2) {
      ScoreQueries<2>(expander, args, rows, scales, logits, prefetch);
      i += 2;
    } else {
      ScoreQueries<1>(expander, args, rows, scales, logits, prefetch);
      i += 1;
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
