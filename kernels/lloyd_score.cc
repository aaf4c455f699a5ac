#include "kernels/lloyd_score.h"

#include "kernels/lloyd_layout.h"
#include "kernels/lloyd_query.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/lloyd_score.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "kernels/lloyd_dot-inl.h"
#include "kernels/lloyd_field-inl.h"
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

/// Four subtiles of 16 tokens (or as many as kSubtiles says) that are scored together.
struct KeyStep {
  const std::uint8_t* codes = nullptr;  ///< first vector of the (first) supertile
  const std::uint8_t* more = nullptr;   ///< 3 bits: of the top bits; otherwise unused
  std::size_t tile_bytes = 0;           ///< from one supertile to the next
  std::size_t first_token = 0;
};

/// kQueries queries (words[q] of each row) against one step, whose subtiles are the fields from kFirst on.
template <std::uint32_t kBits, std::size_t kFirst, std::size_t kSubtiles, std::size_t kQueries>
HWY_INLINE void ScoreStep(const LloydScoreArgs& args, const KeyStep& step, const LloydQueryHead& head,
                          const std::uint32_t* HWY_RESTRICT words, std::size_t query, float* HWY_RESTRICT logits,
                          const std::uint16_t* HWY_RESTRICT scales, Prefetch& prefetch) {
  const CodeTag d8;
  using D8 = CodeTag;
  const SumTag<D8> di;
  const hn::RebindToFloat<SumTag<D8>> df;
  constexpr bool kUnsigned = kDotBytes<kBits> && !kHasNeonDot;
  constexpr std::size_t kRows = LloydQueryRowsPerGroup(kBits);
  const std::size_t groups = args.dim / 4;
  // Unsigned centroids for x86: the offset's share is taken off at the start.
  const auto offset = static_cast<std::uint8_t>(kUnsigned ? args.table->magnitudes[args.table->half() - 1] : 0);
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
    const std::uint32_t* HWY_RESTRICT word = words + query;
    if constexpr (kBits == 8) {
      for (std::size_t g = 0; g < groups; ++g, word += kRows * kLanes) {
        if (part == 0) prefetch.Step();
        Pairs<D8> centroids[kSubtiles];
        for (std::size_t s = 0; s < kSubtiles; ++s)
          centroids[s] = LookUpWords(d8, *args.table, codes + g * 64 + s * step.tile_bytes);
        for (std::size_t q = 0; q < kQueries; ++q) {
          const PairTag<D8> d16;
          const Pairs<D8> numbers{hn::BitCast(d16, hn::Set(di, static_cast<std::int32_t>(word[q]))),
                                  hn::BitCast(d16, hn::Set(di, static_cast<std::int32_t>(word[kLanes + q])))};
          for (std::size_t s = 0; s < kSubtiles; ++s) sums[s][q] = Dot(d8, sums[s][q], centroids[s], numbers);
        }
      }
    } else {
#if HWY_TARGET == HWY_AVX3_DL
      const FieldTables<kBits> tables(*args.table, offset);
      for (std::size_t g = 0; g < groups; ++g, word += kLanes) {
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
          for (std::size_t q = 0; q < kQueries; ++q) sums[s][q] = DotBroadcast(sums[s][q], centroids[s], word[q]);
        }
      }
#else
      const NibbleTables<D8, kBits> tables(d8, *args.table, offset);
      for (std::size_t g = 0; g < groups; ++g, word += kLanes) {
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
          const auto numbers = QueryFactors<kBits>(d8, hn::BitCast(d8, hn::Set(di, static_cast<std::int32_t>(word[q]))));
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
        const auto sum = hn::Mul(hn::ConvertTo(df, sums[s][q]), scale);
        const auto logit = hn::Add(hn::Mul(sum, hn::Set(df, head.scale[query + q])), hn::Set(df, head.bias[query + q]));
        hn::StoreU(logit, df, logits + q * args.stride + token);
      }
    }
  }
}

/// All tokens of the block against kQueries queries.
template <std::uint32_t kBits, std::size_t kQueries>
HWY_INLINE void ScoreQueries(const LloydScoreArgs& args, const LloydQueryHead& head, const std::uint32_t* HWY_RESTRICT words,
                             std::size_t query, float* HWY_RESTRICT logits, Prefetch& prefetch) {
  const std::size_t dim = args.dim;
  const auto* scales = reinterpret_cast<const std::uint16_t*>(args.block + LloydCodesBytes(kBits, dim, args.tokens));
  constexpr std::size_t kSubtiles = kQueries == kManyQueries ? 2 : 4;
  const auto run = [&]<std::size_t kFirst, std::size_t kCount>(const KeyStep& step) HWY_ATTR {
    ScoreStep<kBits, kFirst, kCount, kQueries>(args, step, head, words, query, logits, scales, prefetch);
  };
  const std::size_t vector_row = 16 * dim;  // bytes of a supertile
  std::size_t token = 0;
  if constexpr (kBits == 8) {
    for (; token + 64 <= args.tokens; token += 64) {
      run.template operator()<0, 4>({args.block + token * dim, args.block, vector_row, token});
    }
    for (; token < args.tokens; token += 16)
      run.template operator()<0, 1>({args.block + token * dim, args.block, vector_row, token});
  } else if constexpr (kBits == 4) {
    if constexpr (kSubtiles == 4) {
      for (; token + 64 <= args.tokens; token += 64) {
        run.template operator()<0, 4>({args.block + token * dim / 2, args.block, vector_row, token});
      }
    }
    for (; token < args.tokens; token += 32)
      run.template operator()<0, 2>({args.block + token * dim / 2, args.block, vector_row, token});
  } else if constexpr (kBits == 2) {
    for (; token < args.tokens; token += 64) {
      const std::uint8_t* codes = args.block + token * dim / 4;
      run.template operator()<0, kSubtiles>({codes, args.block, vector_row, token});
      if constexpr (kSubtiles == 2) run.template operator()<2, 2>({codes, args.block, vector_row, token + 32});
    }
  } else {
    const std::uint8_t* tops = args.block + LloydPlaneBytes(2, dim, args.tokens);  // 3 bits only
    for (; token < args.tokens; token += 128) {
      const std::uint8_t* more = kBits == 3 ? tops + token * dim / 8 : args.block;
      const std::uint8_t* low = kBits == 3 ? args.block + token * dim / 4 : args.block + token * dim / 8;
      const std::uint8_t* high = kBits == 3 ? low + 16 * dim : low;
      run.template operator()<0, kSubtiles>({low, more, vector_row, token});
      if constexpr (kSubtiles == 2) run.template operator()<2, 2>({low, more, vector_row, token + 32});
      run.template operator()<4, kSubtiles>({high, more, vector_row, token + 64});
      if constexpr (kSubtiles == 2) run.template operator()<6, 2>({high, more, vector_row, token + 96});
    }
  }
}

template <std::uint32_t kBits>
HWY_INLINE void ScoreBits(const LloydScoreArgs& args) {
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
      if constexpr (kDotBytes<kBits>) ScoreQueries<kBits, kManyQueries>(args, head, words, query, logits, prefetch);
      i += kManyQueries;
    } else if (left >= kQueriesAtOnce) {
      ScoreQueries<kBits, kQueriesAtOnce>(args, head, words, query, logits, prefetch);
      i += kQueriesAtOnce;
    } else if (kQueriesAtOnce > 2 && left >= 2) {
      ScoreQueries<kBits, 2>(args, head, words, query, logits, prefetch);
      i += 2;
    } else {
      ScoreQueries<kBits, 1>(args, head, words, query, logits, prefetch);
      i += 1;
    }
  }
}

void ScoreAll(const LloydScoreArgs& args) {
  switch (args.table->bits) {
    case 1: return ScoreBits<1>(args);
    case 2: return ScoreBits<2>(args);
    case 3: return ScoreBits<3>(args);
    case 4: return ScoreBits<4>(args);
    default: return ScoreBits<8>(args);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace kvant::kernels
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::kernels {

HWY_EXPORT(ScoreAll);

void LloydScore(const LloydScoreArgs& args) noexcept { HWY_DYNAMIC_DISPATCH(ScoreAll)(args); }

}  // namespace kvant::kernels
#endif  // HWY_ONCE
