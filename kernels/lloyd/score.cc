#include "kernels/lloyd/score.h"

#include "kernels/lloyd/key_step.h"
#include "kernels/lloyd/layout.h"
#include "kernels/lloyd/query.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/lloyd/score.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/lloyd/dot-inl.h"
#include "kernels/lloyd/field-inl.h"
#include "kernels/lloyd/score_amx-inl.h"
#include "kernels/ufloat16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::kernels {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

/// Queries whose sums stay in registers, with four subtiles each; twice as many with two subtiles, so that centroids serve more
/// queries, where bytes are multiplied.
inline constexpr std::size_t kQueriesAtOnce = HWY_CAP_GE512 ? 4 : 2;
inline constexpr std::size_t kManyQueries = 8;

/// Whether the byte of one factor can take the other's sign in one instruction. Then 3 and 4 bits are bytes here too.
inline constexpr bool kHasByteSigns = HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3;

#if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3
/// The products of a's magnitudes with b under a's signs. Requires: |a|, |b| <= 127, so that two of them fit 16 bits.
template <class D8>
HWY_INLINE hn::Vec<SumTag<D8>> Dot(D8 d8, hn::Vec<SumTag<D8>> sum, SignedBytes<D8> a, SignedBytes<D8> b) {
  const auto magnitudes = hn::BitCast(d8, hn::Abs(hn::BitCast(hn::RebindToSigned<D8>(), a.bytes)));
#if HWY_TARGET == HWY_AVX2
  const hn::Vec<D8> turned{_mm256_sign_epi8(b.bytes.raw, a.bytes.raw)};
#else
  const hn::Vec<D8> turned{_mm_sign_epi8(b.bytes.raw, a.bytes.raw)};
#endif
  return Dot(d8, sum, UnsignedBytes<D8>{magnitudes}, SignedBytes<D8>{turned});
}
#endif

/// Centroids as they meet a query's numbers.
template <std::uint32_t kBits, class D8>
HWY_INLINE auto ScoreFactors(D8 d8, hn::Vec<D8> centroids) {
  if constexpr (!kDotBytes<kBits> && !kHasByteSigns) {
    return WidenSigned(d8, centroids);
  } else if constexpr (!kDotBytes<kBits> || kHasNeonDot) {
    return SignedBytes<D8>{centroids};
  } else {
    return UnsignedBytes<D8>{centroids};
  }
}

template <std::uint32_t kBits, class D8>
HWY_INLINE auto QueryFactors(D8 d8, hn::Vec<D8> numbers) {
  if constexpr (kDotBytes<kBits> || kHasByteSigns) {
    return SignedBytes<D8>{numbers};
  } else {
    return WidenSigned(d8, numbers);
  }
}

/// kQueries queries from `query` of the batch on against one step, whose subtiles are the fields from kFirst on.
template <std::uint32_t kBits, std::size_t kFirst, std::size_t kSubtiles, std::size_t kQueries>
HWY_INLINE void ScoreStep(const LloydTable& table, const ByteScoreArgs& args, const KeyStep& step, const LloydQueryHead& head,
                          const std::uint32_t* HWY_RESTRICT words, std::size_t query, float* HWY_RESTRICT logits,
                          const std::uint16_t* HWY_RESTRICT scales, Prefetch& prefetch) {
  const CodeTag d8;
  using D8 = CodeTag;
  const SumTag<D8> di;
  const hn::RebindToFloat<SumTag<D8>> df;
  constexpr bool kUnsigned = kDotBytes<kBits> && !kHasNeonDot;
  constexpr std::size_t kWords = LloydQueryWordsPerGroup(kBits);
  const std::size_t groups = args.dim / 4, row_words = groups * kWords;
  // Unsigned centroids for x86: the offset's share is taken off at the start.
  const auto offset = static_cast<std::uint8_t>(kUnsigned ? table.magnitudes[table.half() - 1] : 0);
  for (std::size_t part = 0; part < 64; part += hn::Lanes(d8)) {
    hn::Vec<SumTag<D8>> sums[kSubtiles][kQueries];
#pragma GCC unroll 8
    for (std::size_t q = 0; q < kQueries; ++q) {
#pragma GCC unroll 4
      for (std::size_t s = 0; s < kSubtiles; ++s)
        sums[s][q] = hn::Set(di, -static_cast<std::int32_t>(offset) * head.sums[query + q]);
    }
    const std::uint8_t* HWY_RESTRICT codes = step.codes + part;
    const std::uint8_t* HWY_RESTRICT more = step.more + part;
    const std::uint32_t* HWY_RESTRICT word = words + query * row_words;
    if constexpr (kBits == 8) {
      for (std::size_t g = 0; g < groups; ++g, word += kWords) {
        if (part == 0) prefetch.Step();
        Pairs<D8> centroids[kSubtiles];
        for (std::size_t s = 0; s < kSubtiles; ++s) centroids[s] = LookUpWords(d8, table, codes + g * 64 + s * step.tile_bytes);
        for (std::size_t q = 0; q < kQueries; ++q) {
          const PairTag<D8> d16;
          const Pairs<D8> numbers{hn::BitCast(d16, hn::Set(di, static_cast<std::int32_t>(word[q * row_words]))),
                                  hn::BitCast(d16, hn::Set(di, static_cast<std::int32_t>(word[q * row_words + 1])))};
          for (std::size_t s = 0; s < kSubtiles; ++s) sums[s][q] = Dot(d8, sums[s][q], centroids[s], numbers);
        }
      }
    } else {
#if HWY_TARGET == HWY_AVX3_DL
      const FieldTables<kBits> tables(table, offset);
      for (std::size_t g = 0; g < groups; ++g, ++word) {
        prefetch.Step();
        const auto a = hn::Load(d8, codes + g * 64);
        auto b = a;
        if constexpr (kBits == 4 && kSubtiles == 4) b = hn::Load(d8, codes + g * 64 + step.tile_bytes);
        if constexpr (kBits == 3) b = hn::Load(d8, more + g * 64);
        Bytes64 centroids[4];
        Fields<kBits, kFirst, kSubtiles>(tables, a, b, centroids);
#pragma GCC unroll 4
        for (std::size_t s = 0; s < kSubtiles; ++s) {
#pragma GCC unroll 8
          for (std::size_t q = 0; q < kQueries; ++q) sums[s][q] = DotBroadcast(sums[s][q], centroids[s], word[q * row_words]);
        }
      }
#else
      const NibbleTables<D8, kBits> tables(d8, table, offset);
      for (std::size_t g = 0; g < groups; ++g, ++word) {
        if (part == 0) prefetch.Step();
        const auto a = hn::Load(d8, codes + g * 64);
        auto b = a;
        if constexpr (kBits == 4 && kSubtiles == 4) b = hn::Load(d8, codes + g * 64 + step.tile_bytes);
        if constexpr (kBits == 3) b = hn::Load(d8, more + g * 64);
        hn::Vec<D8> centroids[4];
        LookUp<kBits, kFirst / 4, kSubtiles>(d8, tables, a, b, centroids);
        decltype(ScoreFactors<kBits>(d8, a)) factors[kSubtiles];
        for (std::size_t s = 0; s < kSubtiles; ++s) factors[s] = ScoreFactors<kBits>(d8, centroids[kFirst % 4 + s]);
        for (std::size_t q = 0; q < kQueries; ++q) {
          const auto numbers =
              QueryFactors<kBits>(d8, hn::BitCast(d8, hn::Set(di, static_cast<std::int32_t>(word[q * row_words]))));
          for (std::size_t s = 0; s < kSubtiles; ++s) sums[s][q] = Dot(d8, sums[s][q], factors[s], numbers);
        }
      }
#endif
    }
#pragma GCC unroll 4
    for (std::size_t s = 0; s < kSubtiles; ++s) {
      const std::size_t token = step.first_token + 16 * s + part / 4;
      const auto scale = LoadUfloat16(df, scales + token);
#pragma GCC unroll 8
      for (std::size_t q = 0; q < kQueries; ++q) {
        const auto logit = Logits(df, sums[s][q], scale, head.scale[query + q], head.bias[query + q]);
        hn::StoreU(logit, df, logits + q * args.stride + token);
      }
    }
  }
}

/// All tokens of the block against kQueries queries.
template <std::uint32_t kBits, std::size_t kQueries>
HWY_INLINE void ScoreQueries(const LloydTable& table, const ByteScoreArgs& args, const LloydQueryHead& head,
                             const std::uint32_t* HWY_RESTRICT words, std::size_t query, float* HWY_RESTRICT logits,
                             Prefetch& prefetch) {
  const std::size_t dim = args.dim;
  const auto* scales = reinterpret_cast<const std::uint16_t*>(args.block + LloydCodesBytes(kBits, dim, args.tokens));
  constexpr std::size_t kSubtiles = kQueries == kManyQueries ? 2 : 4;
  const auto run = [&]<std::size_t kFirst, std::size_t kCount>(const KeyStep& step) HWY_ATTR {
    ScoreStep<kBits, kFirst, kCount, kQueries>(table, args, step, head, words, query, logits, scales, prefetch);
  };
  const auto four_fields = [&]<std::size_t kFirst>(KeyStep step) HWY_ATTR {
    run.template operator()<kFirst, kSubtiles>(step);
    if constexpr (kSubtiles == 2) {
      step.first_token += 32;
      run.template operator()<kFirst + 2, 2>(step);
    }
  };
  constexpr std::size_t kStep = kBits == 4 ? 16 * kSubtiles : 64;
  std::size_t token = 0;
  for (; token + kStep <= args.tokens; token += kStep) {
    const KeyStep step = KeyStepAt<kBits>(BlockOf(args), dim, args.tokens, token);
    if constexpr (kBits >= 4) {
      run.template operator()<0, kSubtiles>(step);
    } else if constexpr (kBits == 2) {
      four_fields.template operator()<0>(step);
    } else if (step.odd) {
      four_fields.template operator()<4>(step);
    } else {
      four_fields.template operator()<0>(step);
    }
  }
  if constexpr (kBits >= 4) {
    constexpr std::size_t kLast = 8 / kBits;  // subtiles of one supertile
    for (; token < args.tokens; token += 16 * kLast) {
      run.template operator()<0, kLast>(KeyStepAt<kBits>(BlockOf(args), dim, args.tokens, token));
    }
  }
}

template <std::uint32_t kBits>
HWY_INLINE void ScoreBits(const LloydTable& table, const ByteScoreArgs& args) {
#if HWY_TARGET == HWY_AVX3_DL
  if constexpr (kBits != 8) {
    if (ScoresByTiles(args)) return ScoreTiles<kBits>(table, args);
  }
#endif
  // The first queries' pass over the block does the prefetching.
  Prefetch prefetch(args.next, args.next_bytes, (args.tokens + 63) / 64 * (args.dim / 4));
  const std::size_t batch_bytes = LloydQueryBatchBytes(kBits, args.dim);
  for (std::size_t i = 0; i < args.queries;) {
    const std::byte* batch = args.prepared + i / kLanes * batch_bytes;
    const auto& head = *reinterpret_cast<const LloydQueryHead*>(batch);
    const auto* words = reinterpret_cast<const std::uint32_t*>(batch + sizeof(LloydQueryHead));
    const std::size_t query = i % kLanes;
    const std::size_t left = args.queries - i < kLanes - query ? args.queries - i : kLanes - query;
    float* logits = args.logits + i * args.stride;
    if (kDotBytes<kBits> && left >= kManyQueries) {
      if constexpr (kDotBytes<kBits>) ScoreQueries<kBits, kManyQueries>(table, args, head, words, query, logits, prefetch);
      i += kManyQueries;
    } else if (left >= kQueriesAtOnce) {
      ScoreQueries<kBits, kQueriesAtOnce>(table, args, head, words, query, logits, prefetch);
      i += kQueriesAtOnce;
    } else if (kQueriesAtOnce > 2 && left >= 2) {
      ScoreQueries<kBits, 2>(table, args, head, words, query, logits, prefetch);
      i += 2;
    } else {
      ScoreQueries<kBits, 1>(table, args, head, words, query, logits, prefetch);
      i += 1;
    }
  }
}

void ScoreAll(const LloydTable& table, const ByteScoreArgs& args) {
  switch (table.bits) {
    case 1: return ScoreBits<1>(table, args);
    case 2: return ScoreBits<2>(table, args);
    case 3: return ScoreBits<3>(table, args);
    case 4: return ScoreBits<4>(table, args);
    default: return ScoreBits<8>(table, args);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(ScoreAll);

void LloydScore(const LloydTable& table, const ByteScoreArgs& args) noexcept { HWY_DYNAMIC_DISPATCH(ScoreAll)(table, args); }

}  // namespace kvant::kernels
#endif  // HWY_ONCE
