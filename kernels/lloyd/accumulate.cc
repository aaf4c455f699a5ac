#include "kernels/lloyd/accumulate.h"

#include <algorithm>

#include "kernels/lloyd/layout.h"
#include "kernels/lloyd/value_codes.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/lloyd/accumulate.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/lloyd/accumulate_amx-inl.h"
#include "kernels/lloyd/dot-inl.h"
#include "kernels/lloyd/field-inl.h"
#include "kernels/lloyd/weights-inl.h"
#include "kernels/ufloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr std::size_t kQueriesAtOnce = HWY_CAP_GE512 ? 4 : 2;
inline constexpr std::size_t kVectorsAtOnce = HWY_CAP_GE512 ? 4 : 2;
/// Where bytes are multiplied, centroids serve more queries and fewer vectors at once.
inline constexpr std::size_t kManyQueries = 8;
/// What makes centroids unsigned for NEON, whose dot products take factors of one kind: weights have no sign.
template <std::uint32_t kBits>
HWY_INLINE std::uint8_t CentroidOffset(const LloydTable& table) {
  return static_cast<std::uint8_t>(kHasNeonDot && kBits != 8 ? table.magnitudes[table.half() - 1] : 0);
}

/// Centroids as they meet weights.
template <std::uint32_t kBits, class D8>
HWY_INLINE auto CentroidFactors(D8 d8, hn::Vec<D8> centroids) {
  if constexpr (!kDotBytes<kBits>) {
    return WidenSigned(d8, centroids);
  } else if constexpr (kHasNeonDot) {
    return UnsignedBytes<D8>{centroids};
  } else {
    return SignedBytes<D8>{centroids};
  }
}

template <std::uint32_t kBits, class D8>
HWY_INLINE auto WeightFactors(D8 d8, hn::Vec<D8> weights) {
  if constexpr (kDotBytes<kBits>) {
    return UnsignedBytes<D8>{weights};
  } else {
    return WidenUnsigned(d8, weights);
  }
}

/// One step: adds four quads' products to sums[vector][query].
template <std::uint32_t kBits, std::size_t kHalf, std::size_t kVectors, std::size_t kQueries, class D8>
HWY_INLINE void AccumulateStep(D8 d8, const LloydTable& table, const NibbleTables<D8, kBits == 8 ? 4 : kBits>& tables,
                               const ValueCodes& at, std::size_t offset, std::size_t step,
                               const std::uint32_t* HWY_RESTRICT words, hn::Vec<SumTag<D8>> (&sums)[kVectors][kQueries]) {
  const SumTag<D8> di;
  const std::size_t n = hn::Lanes(d8);
  for (std::size_t v = 0; v < kVectors; ++v) {
    if constexpr (kBits == 8) {
      const PairTag<D8> d16;
      for (std::size_t f = 0; f < 4; ++f) {
        const Pairs<D8> centroids = LookUpWords(d8, table, at.codes + (4 * step + f) * at.tile_bytes + offset + v * n);
        for (std::size_t q = 0; q < kQueries; ++q) {
          const std::uint32_t* word = words + q * kWordsPerQuery<kBits> + (4 * step + f) * 2;
          const Pairs<D8> weights{hn::BitCast(d16, hn::Set(di, static_cast<std::int32_t>(word[0]))),
                                  hn::BitCast(d16, hn::Set(di, static_cast<std::int32_t>(word[1])))};
          sums[v][q] = Dot(d8, sums[v][q], centroids, weights);
        }
      }
    } else {
      const std::uint8_t* codes = at.CodesAt<kBits>(step) + offset;
      const auto a = hn::LoadU(d8, codes + v * n);
      auto b = a;
      if constexpr (kBits == 4) b = hn::LoadU(d8, codes + at.tile_bytes + v * n);
      if constexpr (kBits == 3) b = hn::LoadU(d8, at.TopsAt(step) + offset + v * n);
      hn::Vec<D8> centroids[4];
      LookUp<kBits, kHalf, 4>(d8, tables, a, b, centroids);
      for (std::size_t f = 0; f < 4; ++f) {
        const auto factors = CentroidFactors<kBits>(d8, centroids[f]);
        for (std::size_t q = 0; q < kQueries; ++q) {
          const auto word = static_cast<std::int32_t>(words[q * kWordsPerQuery<kBits> + 4 * step + f]);
          sums[v][q] = Dot(d8, sums[v][q], WeightFactors<kBits>(d8, hn::BitCast(d8, hn::Set(di, word))), factors);
        }
      }
    }
  }
}

#if HWY_TARGET == HWY_AVX3_DL
/// One field of kVectors vectors: each query's weights of that quad of tokens are broadcast once.
template <std::uint32_t kBits, std::size_t kField, std::size_t kVectors, std::size_t kQueries>
HWY_INLINE void AccumulateField(const FieldTables<kBits>& tables, const Bytes64 (&codes)[kVectors],
                                const Bytes64 (&tops)[kVectors], const std::uint32_t* HWY_RESTRICT words,
                                Sums16 (&sums)[kVectors][kQueries]) {
  Bytes64 weights[kQueries];
#pragma GCC unroll 8
  for (std::size_t q = 0; q < kQueries; ++q) weights[q] = BroadcastWord(words[q * kWordsPerQuery<kBits>]);
#pragma GCC unroll 4
  for (std::size_t v = 0; v < kVectors; ++v) {
    const Bytes64 centroids = Field<kBits, kField>(tables, codes[v], tops[v]);
#pragma GCC unroll 8
    for (std::size_t q = 0; q < kQueries; ++q) {
      sums[v][q] = Dot(ByteTag64(), sums[v][q], UnsignedBytes<ByteTag64>{weights[q]}, SignedBytes<ByteTag64>{centroids});
    }
  }
}

/// One step with whole vectors of 64 bytes.
template <std::uint32_t kBits, std::size_t kHalf, std::size_t kVectors, std::size_t kQueries>
HWY_INLINE void AccumulateFields(const FieldTables<kBits>& tables, const ValueCodes& at, std::size_t offset, std::size_t step,
                                 const std::uint32_t* HWY_RESTRICT words, Sums16 (&sums)[kVectors][kQueries]) {
  const ByteTag64 d8;
  const std::uint8_t* HWY_RESTRICT codes = at.CodesAt<kBits>(step) + offset;
  const std::uint8_t* HWY_RESTRICT more = kBits == 3 ? at.TopsAt(step) + offset : codes;
  Bytes64 a[kVectors], b[kVectors];
#pragma GCC unroll 4
  for (std::size_t v = 0; v < kVectors; ++v) {
    a[v] = hn::LoadU(d8, codes + v * 64);
    b[v] = kBits == 3 ? hn::LoadU(d8, more + v * 64) : a[v];
  }
  words += 4 * step;
  constexpr std::size_t kFirst = kBits == 4 ? 0 : 4 * kHalf;
  AccumulateField<kBits, kFirst>(tables, a, b, words, sums);
  AccumulateField<kBits, kFirst + 1>(tables, a, b, words + 1, sums);
  if constexpr (kBits == 4) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) a[v] = hn::LoadU(d8, codes + at.tile_bytes + v * 64);
  }
  AccumulateField<kBits, kBits == 4 ? 0 : kFirst + 2>(tables, a, b, words + 2, sums);
  AccumulateField<kBits, kBits == 4 ? 1 : kFirst + 3>(tables, a, b, words + 3, sums);
}
#endif

/// kVectors vectors of dims from byte `offset` of each supertile, kQueries queries, all tokens of a run.
template <std::uint32_t kBits, std::size_t kVectors, std::size_t kQueries, class D8>
HWY_INLINE void AccumulateVectors(D8 d8, const LloydTable& table, const ByteAccumulateArgs& args, const Run& run,
                                  const ValueCodes& at, std::size_t offset, std::size_t query, Prefetch& prefetch) {
  const SumTag<D8> di;
  const hn::RebindToFloat<SumTag<D8>> df;
  const std::uint32_t* HWY_RESTRICT words = run.words + query * kWordsPerQuery<kBits>;
  constexpr bool kTwoHalves = kBits == 1 || kBits == 3;
  const std::uint8_t centroid_offset = CentroidOffset<kBits>(table);
  hn::Vec<SumTag<D8>> sums[kVectors][kQueries];
#pragma GCC unroll 4
  for (std::size_t v = 0; v < kVectors; ++v) {
#pragma GCC unroll 8
    for (std::size_t q = 0; q < kQueries; ++q) {
      sums[v][q] = hn::Zero(di);
      if constexpr (kHasNeonDot && kBits != 8) sums[v][q] = hn::Set(di, -centroid_offset * run.totals[query + q]);
    }
  }
#if HWY_TARGET == HWY_AVX3_DL
  if constexpr (kBits != 8 && sizeof(hn::Vec<D8>) == 64) {
    const FieldTables<kBits> tables(table, 0);
    for (std::size_t step = 0; step < at.steps; step += kTwoHalves ? 2 : 1) {
      prefetch.Step();
      AccumulateFields<kBits, 0>(tables, at, offset, step, words, sums);
      if constexpr (kTwoHalves) AccumulateFields<kBits, 1>(tables, at, offset, step + 1, words, sums);
    }
  } else
#endif
  {
    const NibbleTables<D8, kBits == 8 ? 4 : kBits> tables(d8, table, centroid_offset);
    for (std::size_t step = 0; step < at.steps; step += kTwoHalves ? 2 : 1) {
      prefetch.Step();
      AccumulateStep<kBits, 0, kVectors, kQueries>(d8, table, tables, at, offset, step, words, sums);
      if constexpr (kTwoHalves) {
        AccumulateStep<kBits, 1, kVectors, kQueries>(d8, table, tables, at, offset, step + 1, words, sums);
      }
    }
  }
#pragma GCC unroll 8
  for (std::size_t q = 0; q < kQueries; ++q) {
    const auto step = hn::Set(df, run.steps[query + q]);
    float* HWY_RESTRICT acc = args.acc + (query + q) * args.acc_stride + offset / 4;
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) {
      float* to = acc + v * hn::Lanes(df);
      hn::StoreU(hn::Add(hn::LoadU(df, to), hn::Mul(hn::ConvertTo(df, sums[v][q]), step)), df, to);
    }
  }
}

/// All dims of kQueries queries for one run.
template <std::uint32_t kBits, std::size_t kQueries>
HWY_INLINE void AccumulateQueries(const LloydTable& table, const ByteAccumulateArgs& args, const Run& run, const ValueCodes& at,
                                  std::size_t query, Prefetch& prefetch) {
  bool none = true;
  for (std::size_t q = 0; q < kQueries; ++q) none = none && run.steps[query + q] == 0.0f;
  if (none) return;
  const CodeTag d8;
  const std::size_t n = hn::Lanes(d8), bytes = 4 * args.dim;
  constexpr std::size_t kVectors = kQueries == kManyQueries ? 2 : kVectorsAtOnce;
  std::size_t offset = 0;
  for (; offset + kVectors * n <= bytes; offset += kVectors * n) {
    AccumulateVectors<kBits, kVectors, kQueries>(d8, table, args, run, at, offset, query, prefetch);
  }
  for (; offset + n <= bytes; offset += n)
    AccumulateVectors<kBits, 1, kQueries>(d8, table, args, run, at, offset, query, prefetch);
  const hn::CappedTag<std::uint8_t, 32> cell;
  if (offset < bytes) AccumulateVectors<kBits, 1, kQueries>(cell, table, args, run, at, offset, query, prefetch);
}

/// All queries for one run.
template <std::uint32_t kBits>
HWY_INLINE void AccumulateRun(const LloydTable& table, const ByteAccumulateArgs& args, const Run& run, const ValueCodes& at,
                              Prefetch& prefetch) {
  std::size_t query = 0;
  if constexpr (kDotBytes<kBits>) {
    for (; query + kManyQueries <= args.queries; query += kManyQueries) {
      AccumulateQueries<kBits, kManyQueries>(table, args, run, at, query, prefetch);
    }
  }
  for (; query + kQueriesAtOnce <= args.queries; query += kQueriesAtOnce) {
    AccumulateQueries<kBits, kQueriesAtOnce>(table, args, run, at, query, prefetch);
  }
  for (; query < args.queries; ++query) AccumulateQueries<kBits, 1>(table, args, run, at, query, prefetch);
}

template <std::uint32_t kBits>
HWY_INLINE void AccumulateBits(const LloydTable& table, const ByteAccumulateArgs& args) {
  const hn::CappedTag<float, 16> d;
  const std::size_t dim = args.dim;
  const auto* block = reinterpret_cast<const std::uint8_t*>(args.block);
  const std::uint8_t* tops = block + LloydPlaneBytes(2, dim, args.tokens);  // 3 bits only
  const auto* scales = reinterpret_cast<const std::uint16_t*>(block + LloydCodesBytes(kBits, dim, args.tokens));
  Run run;
  const std::size_t rows = (args.queries + 15) / 16 * 16;
  run.scales = reinterpret_cast<float*>(args.scratch);
  run.terms = run.scales + kWeightRun;
  run.words = reinterpret_cast<std::uint32_t*>(run.terms + kWeightsTogether * kWeightRun);
  run.totals = reinterpret_cast<std::int32_t*>(run.words + rows * kWordsPerQuery<8>);
  run.steps = reinterpret_cast<float*>(run.totals + rows);
  run.tiles = reinterpret_cast<std::byte*>(run.steps + rows);
  const auto each_run = [&](std::size_t steps, auto accumulate) HWY_ATTR {
    Prefetch prefetch(args.next, args.next_bytes, steps);
    for (std::size_t first = 0; first < args.tokens; first += kWeightRun) {
      const std::size_t count = std::min(kWeightRun, args.tokens - first);
      for (std::size_t t = 0; t < count; t += hn::Lanes(d)) hn::Store(LoadUfloat16(d, scales + first + t), d, run.scales + t);
      RoundWeights<kBits>(args, first, count, run);
      constexpr std::uint32_t kPlaneBits = LloydPlaneAt(kBits, 0).bits;
      accumulate(ValueCodes{block + first * dim * kPlaneBits / 8, tops + first * dim / 8, 4 * dim, count / 16}, prefetch);
    }
  };
#if HWY_TARGET == HWY_AVX3_DL
  if constexpr (kBits != 8) {
    if (AccumulatesByTiles(args)) {
      const Tiles tiles;
      return each_run(dim / 16 * args.tokens / 16, [&](const ValueCodes& at, Prefetch& prefetch)
                                                       HWY_ATTR { AccumulateTiles<kBits>(table, args, run, at, prefetch); });
    }
  }
#endif
  const std::size_t pass_bytes = hn::Lanes(CodeTag()) * kVectorsAtOnce;
  const std::size_t passes = (4 * dim + pass_bytes - 1) / pass_bytes;
  each_run(passes * args.tokens / (kBits == 1 || kBits == 3 ? 32 : 16),
           [&](const ValueCodes& at, Prefetch& prefetch) HWY_ATTR { AccumulateRun<kBits>(table, args, run, at, prefetch); });
}

void AccumulateAll(const LloydTable& table, const ByteAccumulateArgs& args) {
  switch (table.bits) {
    case 1: return AccumulateBits<1>(table, args);
    case 2: return AccumulateBits<2>(table, args);
    case 3: return AccumulateBits<3>(table, args);
    case 4: return AccumulateBits<4>(table, args);
    default: return AccumulateBits<8>(table, args);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(AccumulateAll);

void LloydAccumulate(const LloydTable& table, const ByteAccumulateArgs& args) noexcept {
  HWY_DYNAMIC_DISPATCH(AccumulateAll)(table, args);
}

}  // namespace kvant::kernels
#endif  // HWY_ONCE
