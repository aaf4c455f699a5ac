// Blocks of 32 numbers as ggml's q4_0: an f16 scale d, then 16 bytes whose low nibbles are numbers 0..15 and whose high nibbles
// are 16..31; a nibble c stands for (c - 8) d. A row of 128 is four blocks, 72 bytes.
// Keys: queries are rounded to bytes per block of 32 (as ggml's q8_0), 8 times their sum takes the offset of the codes away.
// Values: code times (weight times scale) in f32; the offset is taken away once per chunk.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/raw/rows.h"
#include "tools/bench/peers/peer_attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tools/bench/peers/q40_peer.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "tools/bench/peers/peer_sums-inl.h"

namespace kvant::tools {
#ifndef KVANT_TOOLS_Q40_PEER_ONCE
#define KVANT_TOOLS_Q40_PEER_ONCE
namespace {

constexpr std::size_t kBlock = 32;
constexpr std::size_t kBlocks = kPeerDim / kBlock;
constexpr std::size_t kBlockBytes = 2 + kBlock / 2;
constexpr std::size_t kRowBytes = kBlocks * kBlockBytes;

/// Four queries as bytes. Lane order is that of FoldBlocks' input: block b in bytes 16 b.. of `low` and `high`.
struct alignas(64) RoundedQueries {
  std::int8_t low[kPeerGroup][kBlocks * 16];     ///< numbers 0..15 of each block
  std::int8_t high[kPeerGroup][kBlocks * 16];    ///< numbers 16..31
  std::int32_t offset[kPeerGroup][kBlocks * 4];  ///< 8 times the sum of a block, in each of its four lanes
  float scale[kPeerGroup][kBlocks * 4];          ///< likewise
};

}  // namespace
#endif
}  // namespace kvant::tools

HWY_BEFORE_NAMESPACE();
namespace kvant::tools::HWY_NAMESPACE {

/// sum + products of 4 codes (0..15) with 4 signed bytes per lane, for both nibbles.
template <class VI, class VB>
HWY_INLINE VI DotNibbles(VI sum, VB low, VB high, VB query_low, VB query_high) {
#if HWY_TARGET == HWY_AVX3_DL
  // Assembler because g++ 12 turns the intrinsic into register copies and spilled sums.
  asm("vpdpbusd %2,%1,%0" : "+v"(sum.raw) : "v"(low.raw), "v"(query_low.raw));
  asm("vpdpbusd %2,%1,%0" : "+v"(sum.raw) : "v"(high.raw), "v"(query_high.raw));
  return sum;
#elif HWY_TARGET == HWY_AVX3
  const auto pairs =
      _mm512_add_epi16(_mm512_maddubs_epi16(low.raw, query_low.raw), _mm512_maddubs_epi16(high.raw, query_high.raw));
  return VI{_mm512_add_epi32(sum.raw, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
#elif HWY_TARGET == HWY_AVX2
  const auto pairs =
      _mm256_add_epi16(_mm256_maddubs_epi16(low.raw, query_low.raw), _mm256_maddubs_epi16(high.raw, query_high.raw));
  return VI{_mm256_add_epi32(sum.raw, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
#elif HWY_TARGET == HWY_SSE4 || HWY_TARGET == HWY_SSSE3
  const auto pairs = _mm_add_epi16(_mm_maddubs_epi16(low.raw, query_low.raw), _mm_maddubs_epi16(high.raw, query_high.raw));
  return VI{_mm_add_epi32(sum.raw, _mm_madd_epi16(pairs, _mm_set1_epi16(1)))};
#else
  const hn::DFromV<VI> d;
  const hn::Repartition<std::int16_t, decltype(d)> d16;
  const auto dot = [&](VB codes, VB query) HWY_ATTR {
    const auto c = hn::BitCast(d16, codes), q = hn::BitCast(d16, query);
    VI odd = hn::Zero(d);
    const auto even_sum = hn::ReorderWidenMulAccumulate(d, hn::And(c, hn::Set(d16, 0xFF)),
                                                        hn::ShiftRight<8>(hn::ShiftLeft<8>(q)), hn::Zero(d), odd);
    VI odd2 = hn::Zero(d);
    const auto odd_sum = hn::ReorderWidenMulAccumulate(d, hn::ShiftRight<8>(c), hn::ShiftRight<8>(q), hn::Zero(d), odd2);
    return hn::Add(hn::RearrangeToOddPlusEven(even_sum, odd), hn::RearrangeToOddPlusEven(odd_sum, odd2));
  };
  return hn::Add(sum, hn::Add(dot(low, query_low), dot(high, query_high)));
#endif
}

using ByteTag = hn::CappedTag<std::uint8_t, 64>;
using ByteVec = hn::Vec<ByteTag>;
/// Blocks of a row that one vector of codes holds.
constexpr std::size_t kBlocksPerVector = hn::MaxLanes(ByteTag()) / 16;

/// The 16 code bytes of each of as many blocks as a vector holds, from block `first` of a row.
template <class D>
HWY_INLINE hn::Vec<D> LoadCodes(D d, const std::byte* row, std::size_t first) {
  if constexpr (hn::MaxLanes(D()) == 16) {
    return hn::LoadU(d, reinterpret_cast<const std::uint8_t*>(row) + first * kBlockBytes + 2);
  } else {
    const hn::Half<D> half;
    return hn::Combine(d, LoadCodes(half, row, first + hn::MaxLanes(half) / 16), LoadCodes(half, row, first));
  }
}

/// The scales of n rows as f32, [n / 4, kBlocks, 4 tokens] or [n, kBlocks].
enum class ScaleOrder { kBlocksFirst, kTokensFirst };

template <ScaleOrder kOrder>
HWY_INLINE void LoadScales(const std::byte* rows, std::size_t n, float* HWY_RESTRICT scales) {
  alignas(64) std::uint16_t halves[kPeerChunk * kBlocks];
  for (std::size_t t = 0; t < n; t += 4) {
#pragma GCC unroll 4
    for (std::size_t j = 0; j < 4; ++j) {
#pragma GCC unroll 4
      for (std::size_t b = 0; b < kBlocks; ++b) {
        std::memcpy(&halves[t * kBlocks + (kOrder == ScaleOrder::kBlocksFirst ? 4 * b + j : kBlocks * j + b)],
                    rows + (t + j) * kRowBytes + b * kBlockBytes, 2);
      }
    }
  }
  const hn::CappedTag<float, 16> d;
  const hn::Rebind<hwy::float16_t, decltype(d)> dh;
  for (std::size_t i = 0; i < n * kBlocks; i += hn::Lanes(d)) {
    hn::Store(hn::PromoteTo(d, hn::Load(dh, reinterpret_cast<const hwy::float16_t*>(halves) + i)), d, scales + i);
  }
}

void Q40Score(const std::byte* prepared, const std::byte* keys, std::size_t n, float* HWY_RESTRICT logits,
              const std::byte* next) {
  const ByteTag db;
  const hn::Repartition<std::uint16_t, ByteTag> dw;
  const hn::Repartition<std::int32_t, ByteTag> di;
  const hn::Repartition<float, ByteTag> df;
  const auto& queries = *reinterpret_cast<const RoundedQueries*>(prepared);
  alignas(64) float scales[kPeerChunk * kBlocks];
  LoadScales<ScaleOrder::kBlocksFirst>(keys, n, scales);
  const auto nibble = hn::Set(db, std::uint8_t{0x0F});
  for (std::size_t t = 0; t < n; t += 4) {
    next = PrefetchSome(next, 4 * kRowBytes);
    hn::Vec<decltype(df)> sums[kPeerGroup];
    for (auto& sum : sums) sum = hn::Zero(df);
#pragma GCC unroll 4
    for (std::size_t b = 0; b < kBlocks; b += kBlocksPerVector) {
      ByteVec low[4], high[4];
#pragma GCC unroll 4
      for (std::size_t j = 0; j < 4; ++j) {
        const ByteVec codes = LoadCodes(db, keys + (t + j) * kRowBytes, b);
        low[j] = hn::And(codes, nibble);
        high[j] = hn::And(hn::BitCast(db, hn::ShiftRight<4>(hn::BitCast(dw, codes))), nibble);
      }
      const auto scale = hn::Load(df, scales + t * kBlocks + 4 * b);
#pragma GCC unroll 4
      for (std::size_t q = 0; q < kPeerGroup; ++q) {
        const auto query_low = hn::Load(db, reinterpret_cast<const std::uint8_t*>(queries.low[q]) + 16 * b);
        const auto query_high = hn::Load(db, reinterpret_cast<const std::uint8_t*>(queries.high[q]) + 16 * b);
        hn::Vec<decltype(di)> dots[4];
#pragma GCC unroll 4
        for (std::size_t j = 0; j < 4; ++j) dots[j] = DotNibbles(hn::Zero(di), low[j], high[j], query_low, query_high);
        const auto dot = hn::Sub(SumBlocks(di, dots[0], dots[1], dots[2], dots[3]), hn::Load(di, queries.offset[q] + 4 * b));
        sums[q] = hn::MulAdd(hn::ConvertTo(df, dot), hn::Mul(scale, hn::Load(df, queries.scale[q] + 4 * b)), sums[q]);
      }
    }
#pragma GCC unroll 4
    for (std::size_t q = 0; q < kPeerGroup; ++q) {
      hn::Store(FoldBlocks(df, sums[q]), hn::FixedTag<float, 4>(), logits + q * kPeerChunk + t);
    }
  }
}

using FloatTag = hn::CappedTag<float, 16>;
using FloatVec = hn::Vec<FloatTag>;
constexpr std::size_t kLanes = hn::MaxLanes(FloatTag());
// Numbers 0.. and 16.. of a block come from the same bytes: a tile is `kTile` such pairs of vectors.
constexpr std::size_t kTile = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL ? 2 : 1;
constexpr std::size_t kPairsPerBlock = 16 / kLanes;

void Q40Accumulate(const float* HWY_RESTRICT weights, const std::byte* values, std::size_t n, float* HWY_RESTRICT acc,
                   const std::byte* next) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const hn::Rebind<std::uint8_t, FloatTag> du8;
  const hn::FixedTag<float, 4> d4;
  alignas(64) float scales[kPeerChunk * kBlocks];
  alignas(64) float scaled[kPeerChunk * kPeerGroup * kBlocks];  // weight times scale: [token, query, block]
  LoadScales<ScaleOrder::kTokensFirst>(values, n, scales);
  hn::Vec<decltype(d4)> totals[kPeerGroup];
  for (auto& total : totals) total = hn::Zero(d4);
  for (std::size_t t = 0; t < n; ++t) {
    const auto of_token = hn::Load(d4, scales + t * kBlocks);
#pragma GCC unroll 4
    for (std::size_t q = 0; q < kPeerGroup; ++q) {
      const auto product = hn::Mul(of_token, hn::Set(d4, weights[q * kPeerChunk + t]));
      totals[q] = hn::Add(totals[q], product);
      hn::Store(product, d4, scaled + (t * kPeerGroup + q) * kBlocks);
    }
  }
  const std::size_t prefetch_bytes = kRowBytes * kTile / (kBlocks * kPairsPerBlock);
  for (std::size_t pair = 0; pair < kBlocks * kPairsPerBlock; pair += kTile) {
    FloatVec sums[kPeerGroup][2 * kTile];
    for (auto& of_query : sums) {
      for (FloatVec& sum : of_query) sum = hn::Zero(d);
    }
    for (std::size_t t = 0; t < n; ++t) {
      if (t % 4 == 0) next = PrefetchSome(next, 4 * prefetch_bytes);
      FloatVec codes[2 * kTile];
#pragma GCC unroll 2
      for (std::size_t i = 0; i < kTile; ++i) {
        const std::byte* block = values + t * kRowBytes + (pair + i) / kPairsPerBlock * kBlockBytes + 2;
        const auto* bytes = reinterpret_cast<const std::uint8_t*>(block) + (pair + i) % kPairsPerBlock * kLanes;
        const auto both = hn::PromoteTo(di, hn::LoadU(du8, bytes));
        codes[2 * i] = hn::ConvertTo(d, hn::And(both, hn::Set(di, 0x0F)));
        codes[2 * i + 1] = hn::ConvertTo(d, hn::ShiftRight<4>(both));
      }
#pragma GCC unroll 4
      for (std::size_t q = 0; q < kPeerGroup; ++q) {
#pragma GCC unroll 2
        for (std::size_t i = 0; i < kTile; ++i) {
          const FloatVec weight = hn::Set(d, scaled[(t * kPeerGroup + q) * kBlocks + (pair + i) / kPairsPerBlock]);
          sums[q][2 * i] = hn::MulAdd(weight, codes[2 * i], sums[q][2 * i]);
          sums[q][2 * i + 1] = hn::MulAdd(weight, codes[2 * i + 1], sums[q][2 * i + 1]);
        }
      }
    }
    for (std::size_t q = 0; q < kPeerGroup; ++q) {
      alignas(16) float total[kBlocks];
      hn::Store(totals[q], d4, total);
      for (std::size_t i = 0; i < kTile; ++i) {
        const std::size_t block = (pair + i) / kPairsPerBlock;
        float* to = acc + q * kPeerDim + block * kBlock + (pair + i) % kPairsPerBlock * kLanes;
        const FloatVec offset = hn::Set(d, 8.0f * total[block]);
        hn::StoreU(hn::Add(hn::LoadU(d, to), hn::Sub(sums[q][2 * i], offset)), d, to);
        hn::StoreU(hn::Add(hn::LoadU(d, to + 16), hn::Sub(sums[q][2 * i + 1], offset)), d, to + 16);
      }
    }
  }
}

}  // namespace kvant::tools::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::tools {
namespace {

HWY_EXPORT(Q40Score);
HWY_EXPORT(Q40Accumulate);

void Prepare(const float* queries, std::byte* prepared) {
  auto& rounded = *reinterpret_cast<RoundedQueries*>(prepared);
  for (std::size_t q = 0; q < kPeerGroup; ++q) {
    for (std::size_t b = 0; b < kBlocks; ++b) {
      const float* x = queries + q * kPeerDim + b * kBlock;
      float largest = 0.0f;
      for (std::size_t i = 0; i < kBlock; ++i) largest = std::max(largest, std::abs(x[i]));
      const float scale = largest / 127.0f;
      const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
      std::int32_t sum = 0;
      for (std::size_t i = 0; i < kBlock; ++i) {
        const auto code = static_cast<std::int8_t>(std::lrintf(x[i] * inverse));
        std::int8_t* half = i < 16 ? rounded.low[q] : rounded.high[q];
        half[16 * b + i % 16] = code;
        sum += code;
      }
      for (std::size_t lane = 4 * b; lane < 4 * b + 4; ++lane) {
        rounded.offset[q][lane] = 8 * sum;
        rounded.scale[q][lane] = scale;
      }
    }
  }
}

void Encode(const float* rows, std::size_t n, std::byte* to) {
  for (std::size_t block = 0; block < n * kBlocks; ++block, rows += kBlock, to += kBlockBytes) {
    // The number of largest magnitude becomes code 0, that is -8 d exactly.
    float extreme = 0.0f;
    for (std::size_t i = 0; i < kBlock; ++i) extreme = std::abs(rows[i]) > std::abs(extreme) ? rows[i] : extreme;
    const float scale = extreme / -8.0f;
    const float inverse = scale == 0.0f ? 0.0f : 1.0f / scale;
    kernels::StoreRow(&scale, 1, ElementType::kF16, to);
    const auto code = [&](std::size_t i) { return std::min(15, static_cast<int>(rows[i] * inverse + 8.5f)); };
    for (std::size_t i = 0; i < 16; ++i) to[2 + i] = static_cast<std::byte>(code(i) | code(i + 16) << 4);
  }
}

void Decode(const std::byte* rows, std::size_t n, float* to) {
  for (std::size_t block = 0; block < n * kBlocks; ++block, rows += kBlockBytes, to += kBlock) {
    float scale = 0.0f;
    kernels::LoadRow(rows, ElementType::kF16, 1, &scale);
    for (std::size_t i = 0; i < 16; ++i) {
      const int codes = std::to_integer<int>(rows[2 + i]);
      to[i] = static_cast<float>((codes & 15) - 8) * scale;
      to[i + 16] = static_cast<float>((codes >> 4) - 8) * scale;
    }
  }
}

}  // namespace

const PeerFormat kQ40Peer = {
    .name = "q4_0",
    .row_bytes = kRowBytes,
    .prepared_bytes = sizeof(RoundedQueries),
    .encode = Encode,
    .decode = Decode,
    .prepare = Prepare,
    .score =
        [](const std::byte* prepared, const std::byte* keys, std::size_t n, float* logits, const std::byte* next) {
          HWY_DYNAMIC_DISPATCH(Q40Score)
          (prepared, keys, n, logits, next);
        },
    .accumulate =
        [](const float* weights, const std::byte* values, std::size_t n, float* acc, const std::byte* next) {
          HWY_DYNAMIC_DISPATCH(Q40Accumulate)
          (weights, values, n, acc, next);
        },
};

}  // namespace kvant::tools
#endif
