// Weighted sums from codes of values, for whichever expander: exact integer sums of its numbers and integer weights
// (weights-inl.h). No include guard by design: see Highway's foreach_target.
#if defined(KVANT_KERNELS_BYTES_ACCUMULATE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef KVANT_KERNELS_BYTES_ACCUMULATE_INL_H_
#undef KVANT_KERNELS_BYTES_ACCUMULATE_INL_H_
#else
#define KVANT_KERNELS_BYTES_ACCUMULATE_INL_H_
#endif

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>

#include "hwy/highway.h"
#include "kernels/bytes/accumulate_tiles-inl.h"
#include "kernels/bytes/attend.h"
#include "kernels/bytes/expander-inl.h"
#include "kernels/bytes/weights-inl.h"
#include "kernels/bytes/word_tiles-inl.h"
#include "kernels/machine/prefetch.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Vectors of dims whose sums stay in registers together: four for a single query, which has nothing else to share weights and
/// the loop with; fewer where there are more queries, or where bytes are widened and take two registers each.
template <class E, std::size_t kQueries>
inline constexpr std::size_t kVectorsAtOnce = kQueries == 1 || (HWY_CAP_GE512 && kQueries != kManyQueries &&
                                                                (E::kWords || MultipliesBytes<E>()))
                                                  ? 4
                                                  : 2;

/// One field: adds the products of its four tokens to sums[vector][query].
template <std::size_t kField, class E, class D8, class T, std::size_t kVectors, std::size_t kQueries>
HWY_INLINE void AccumulateField(D8 d8, const E& expander, const T& tables, std::size_t tile, std::size_t byte,
                                const std::uint32_t* HWY_RESTRICT words, std::size_t row_words,
                                hn::Vec<SumTag<D8>> (&sums)[kVectors][kQueries]) {
  if constexpr (kHasVnni && !E::kWords) {
    // Weights of all queries fit beside the sums, so that each vector's numbers are wanted for a short time only.
    decltype(WeightFactors<E>(d8, words)) weights[kQueries];
#pragma GCC unroll 8
    for (std::size_t q = 0; q < kQueries; ++q) weights[q] = WeightFactors<E>(d8, words + q * row_words);
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) {
      const auto factors = ValueFactors<E>(d8, expander.template Expand<kField>(d8, tables, tile, byte + v * hn::Lanes(d8)));
#pragma GCC unroll 8
      for (std::size_t q = 0; q < kQueries; ++q) sums[v][q] = Dot(d8, sums[v][q], weights[q], factors);
    }
  } else {
    decltype(ValueFactors<E>(d8, expander.template Expand<kField>(d8, tables, tile, byte))) factors[kVectors];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) {
      factors[v] = ValueFactors<E>(d8, expander.template Expand<kField>(d8, tables, tile, byte + v * hn::Lanes(d8)));
    }
#pragma GCC unroll 8
    for (std::size_t q = 0; q < kQueries; ++q) {
      const auto weights = WeightFactors<E>(d8, words + q * row_words);
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) sums[v][q] = Dot(d8, sums[v][q], weights, factors[v]);
    }
  }
}

/// All fields of a tile.
template <std::size_t... kField, class E, class D8, class T, std::size_t kVectors, std::size_t kQueries>
HWY_INLINE void AccumulateTile(std::index_sequence<kField...>, D8 d8, const E& expander, const T& tables, std::size_t tile,
                               std::size_t byte, const std::uint32_t* HWY_RESTRICT words, std::size_t row_words,
                               hn::Vec<SumTag<D8>> (&sums)[kVectors][kQueries]) {
  (AccumulateField<kField>(d8, expander, tables, tile, byte, words + kField * kWordsPerFour<E>, row_words, sums), ...);
}

/// kVectors vectors of dims from byte `byte` of each tile on, kQueries queries, all tokens of a run.
template <std::size_t kVectors, std::size_t kQueries, class E, class D8>
HWY_INLINE void AccumulateVectors(D8 d8, const E expander, const ByteAccumulateArgs& args, const Run<E>& run, std::size_t byte,
                                  std::size_t query, Prefetch& prefetch) {
  const SumTag<D8> di;
  const hn::RebindToFloat<SumTag<D8>> df;
  constexpr std::size_t kFields = E::kFields;
  constexpr int kOffset = AccumulateOffset<E>();
  const std::size_t row_words = run.row_words();
  const std::uint32_t* HWY_RESTRICT words = run.words + query * row_words;
  const auto tables = expander.Tables(d8, static_cast<std::uint8_t>(E::kWords ? 0 : kOffset));
  hn::Vec<SumTag<D8>> sums[kVectors][kQueries];
#pragma GCC unroll 4
  for (std::size_t v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
    for (std::size_t q = 0; q < kQueries; ++q)
      sums[v][q] = kOffset == 0 ? hn::Zero(di) : hn::Set(di, -kOffset * run.totals[query + q]);
  }
  const std::uint32_t* const end = words + run.tokens / 4 * kWordsPerFour<E>;
  for (std::size_t tile = run.first / (4 * kFields); words < end; ++tile) {
    prefetch.Step();
    AccumulateTile(std::make_index_sequence<kFields>(), d8, expander, tables, tile, byte, words, row_words, sums);
    words += kFields * kWordsPerFour<E>;
  }
#pragma GCC unroll 8
  for (std::size_t q = 0; q < kQueries; ++q) {
    const auto step = hn::Set(df, run.steps[query + q]);
    float* HWY_RESTRICT acc = args.acc + (query + q) * args.acc_stride + byte / 4;
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) {
      float* to = acc + v * hn::Lanes(df);
      hn::StoreU(hn::Add(hn::LoadU(df, to), hn::Mul(hn::ConvertTo(df, sums[v][q]), step)), df, to);
    }
  }
}

/// All dims of kQueries queries for one run.
template <std::size_t kQueries, class E>
HWY_INLINE void AccumulateQueries(const E& expander, const ByteAccumulateArgs& args, const Run<E>& run, std::size_t query,
                                  Prefetch& prefetch) {
  if (std::all_of(run.steps + query, run.steps + query + kQueries, [](float step) { return step == 0.0f; })) return;
  const CodeTag d8;
  const std::size_t n = hn::Lanes(d8), bytes = 4 * args.dim;
  constexpr std::size_t kVectors = kVectorsAtOnce<E, kQueries>;
  std::size_t byte = 0;
  for (; byte + kVectors * n <= bytes; byte += kVectors * n) {
    AccumulateVectors<kVectors, kQueries>(d8, expander, args, run, byte, query, prefetch);
  }
  // Products of a single vector would wait for each other: groups of few dims take two.
  if constexpr (kVectors > 2) {
    for (; byte + 2 * n <= bytes; byte += 2 * n) AccumulateVectors<2, kQueries>(d8, expander, args, run, byte, query, prefetch);
  }
  for (; byte + n <= bytes; byte += n) AccumulateVectors<1, kQueries>(d8, expander, args, run, byte, query, prefetch);
  const hn::CappedTag<std::uint8_t, 32> cell;
  if (byte < bytes) AccumulateVectors<1, kQueries>(cell, expander, args, run, byte, query, prefetch);
}

/// All queries for one run.
template <class E>
HWY_INLINE void AccumulateRun(const E& expander, const ByteAccumulateArgs& args, const Run<E>& run, Prefetch& prefetch) {
  std::size_t query = 0;
  if constexpr (MultipliesBytes<E>()) {
    for (; query + kManyQueries <= args.queries; query += kManyQueries) {
      AccumulateQueries<kManyQueries>(expander, args, run, query, prefetch);
    }
  }
  constexpr std::size_t kFew = kQueriesAtOnce<E>;
  for (; query + kFew <= args.queries; query += kFew) AccumulateQueries<kFew>(expander, args, run, query, prefetch);
  if constexpr (kFew > 2) {
    for (; query + 2 <= args.queries; query += 2) AccumulateQueries<2>(expander, args, run, query, prefetch);
  }
  for (; query < args.queries; ++query) AccumulateQueries<1>(expander, args, run, query, prefetch);
}

/// Adds the block's weighted sums for all queries. `scales` are the tokens'.
template <class E>
HWY_INLINE void Accumulate(const E& expander, const std::uint16_t* scales, const ByteAccumulateArgs& args) {
  Run<E> run(args);
  const auto each_run = [&](std::size_t steps, const auto& accumulate) HWY_ATTR {
    Prefetch prefetch(args.next, args.next_bytes, steps);
    for (std::size_t first = 0; first < args.tokens; first += run.most()) {
      RoundWeights(args, scales, first, run);
      accumulate(prefetch);
    }
  };
#if HWY_TARGET == HWY_AVX3_DL
  if constexpr (!E::kWords) {
    if (AccumulatesByTiles(args)) {
      const Tiles tiles;
      return each_run(args.dim / 16 * args.tokens / 16,
                      [&](Prefetch& prefetch) HWY_ATTR { AccumulateTiles(expander, args, run, prefetch); });
    }
  } else if constexpr (E::kPlainBytes) {
    if (AccumulatesByPlanes(args, run.most())) {
      const Tiles tiles;
      return each_run((args.queries + 15) / 16 * args.dim / 32,
                      [&](Prefetch& prefetch) HWY_ATTR { AccumulatePlanes(args, run, prefetch); });
    }
  }
#endif
  const std::size_t pass_bytes = hn::Lanes(CodeTag()) * (args.queries == 1 ? kVectorsAtOnce<E, 1> : kVectorsAtOnce<E, 2>);
  const std::size_t passes = (4 * args.dim + pass_bytes - 1) / pass_bytes;
  each_run(passes * args.tokens / (4 * E::kFields),
           [&](Prefetch& prefetch) HWY_ATTR { AccumulateRun(expander, args, run, prefetch); });
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#endif  // toggle
