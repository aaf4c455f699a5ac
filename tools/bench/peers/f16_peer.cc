// Rows as f16. Four queries share every row that is loaded and converted; sums stay in registers.
#include <cstring>

#include "kernels/raw/rows.h"
#include "tools/bench/peers/peer_attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tools/bench/peers/f16_peer.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "tools/bench/peers/peer_sums-inl.h"

HWY_BEFORE_NAMESPACE();
namespace kvant::tools::HWY_NAMESPACE {

using FloatTag = hn::CappedTag<float, 16>;
using FloatVec = hn::Vec<FloatTag>;
using HalfTag = hn::Rebind<hwy::float16_t, FloatTag>;

// Tiles that fill 32 registers with AVX-512 and 16 without.
constexpr bool kManyRegisters = HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL;
constexpr std::size_t kScoreTokens = kManyRegisters ? 4 : 2;
constexpr std::size_t kColumns = kManyRegisters ? 4 : 2;

HWY_INLINE FloatVec LoadHalves(const hwy::float16_t* from) { return hn::PromoteTo(FloatTag(), hn::LoadU(HalfTag(), from)); }

void F16Score(const std::byte* prepared, const std::byte* keys, std::size_t n, float* HWY_RESTRICT logits,
              const std::byte* next) {
  const FloatTag d;
  constexpr std::size_t kLanes = hn::MaxLanes(FloatTag());
  const auto* HWY_RESTRICT queries = reinterpret_cast<const float*>(prepared);
  const auto* HWY_RESTRICT rows = reinterpret_cast<const hwy::float16_t*>(keys);
  for (std::size_t t = 0; t < n; t += kScoreTokens, rows += kScoreTokens * kPeerDim) {
    next = PrefetchSome(next, kScoreTokens * kPeerDim * sizeof(hwy::float16_t));
    FloatVec sums[kPeerGroup][kScoreTokens];
    for (auto& of_query : sums) {
      for (FloatVec& sum : of_query) sum = hn::Zero(d);
    }
#pragma GCC unroll 2
    for (std::size_t i = 0; i < kPeerDim; i += kLanes) {
      FloatVec key[kScoreTokens];
#pragma GCC unroll 4
      for (std::size_t j = 0; j < kScoreTokens; ++j) key[j] = LoadHalves(rows + j * kPeerDim + i);
#pragma GCC unroll 4
      for (std::size_t q = 0; q < kPeerGroup; ++q) {
        const FloatVec query = hn::Load(d, queries + q * kPeerDim + i);
#pragma GCC unroll 4
        for (std::size_t j = 0; j < kScoreTokens; ++j) sums[q][j] = hn::MulAdd(query, key[j], sums[q][j]);
      }
    }
    const hn::FixedTag<float, 4> d4;
    if constexpr (kScoreTokens == 4) {
#pragma GCC unroll 4
      for (std::size_t q = 0; q < kPeerGroup; ++q) {
        const FloatVec blocks = SumBlocks(d, sums[q][0], sums[q][1], sums[q][2], sums[q][3]);
        hn::Store(FoldBlocks(d, blocks), d4, logits + q * kPeerChunk + t);
      }
    } else {
      const hn::FixedTag<float, 2> d2;
#pragma GCC unroll 2
      for (std::size_t q = 0; q < kPeerGroup; q += 2) {
        const FloatVec blocks = SumBlocks(d, sums[q][0], sums[q][1], sums[q + 1][0], sums[q + 1][1]);
        const auto folded = FoldBlocks(d, blocks);
        hn::StoreU(hn::LowerHalf(d2, folded), d2, logits + q * kPeerChunk + t);
        hn::StoreU(hn::UpperHalf(d2, folded), d2, logits + (q + 1) * kPeerChunk + t);
      }
    }
  }
}

void F16Accumulate(const float* HWY_RESTRICT weights, const std::byte* values, std::size_t n, float* HWY_RESTRICT acc,
                   const std::byte* next) {
  const FloatTag d;
  constexpr std::size_t kLanes = hn::MaxLanes(FloatTag());
  constexpr std::size_t kStep = kColumns * kLanes;
  const std::size_t prefetch_bytes = 2 * kStep;  // per token and pass: all passes together ask for the whole chunk
  for (std::size_t i = 0; i < kPeerDim; i += kStep) {
    const auto* HWY_RESTRICT rows = reinterpret_cast<const hwy::float16_t*>(values) + i;
    FloatVec sums[kPeerGroup][kColumns];
#pragma GCC unroll 4
    for (std::size_t q = 0; q < kPeerGroup; ++q) {
#pragma GCC unroll 4
      for (std::size_t c = 0; c < kColumns; ++c) sums[q][c] = hn::LoadU(d, acc + q * kPeerDim + i + c * kLanes);
    }
    for (std::size_t t = 0; t < n; ++t, rows += kPeerDim) {
      next = PrefetchSome(next, prefetch_bytes);
      FloatVec value[kColumns];
#pragma GCC unroll 4
      for (std::size_t c = 0; c < kColumns; ++c) value[c] = LoadHalves(rows + c * kLanes);
#pragma GCC unroll 4
      for (std::size_t q = 0; q < kPeerGroup; ++q) {
        const FloatVec weight = hn::Set(d, weights[q * kPeerChunk + t]);
#pragma GCC unroll 4
        for (std::size_t c = 0; c < kColumns; ++c) sums[q][c] = hn::MulAdd(weight, value[c], sums[q][c]);
      }
    }
#pragma GCC unroll 4
    for (std::size_t q = 0; q < kPeerGroup; ++q) {
#pragma GCC unroll 4
      for (std::size_t c = 0; c < kColumns; ++c) hn::StoreU(sums[q][c], d, acc + q * kPeerDim + i + c * kLanes);
    }
  }
}

}  // namespace kvant::tools::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace kvant::tools {
namespace {

HWY_EXPORT(F16Score);
HWY_EXPORT(F16Accumulate);

}  // namespace

const PeerFormat kF16Peer = {
    .name = "f16",
    .row_bytes = 2 * kPeerDim,
    .prepared_bytes = kPeerGroup * kPeerDim * sizeof(float),
    .encode = [](const float* rows, std::size_t n,
                 std::byte* to) { kernels::StoreRow(rows, n * kPeerDim, ElementType::kF16, to); },
    .decode = [](const std::byte* rows, std::size_t n,
                 float* to) { kernels::LoadRow(rows, ElementType::kF16, n * kPeerDim, to); },
    .prepare = [](const float* q, std::byte* prepared) { std::memcpy(prepared, q, kPeerGroup * kPeerDim * sizeof(float)); },
    .score =
        [](const std::byte* prepared, const std::byte* keys, std::size_t n, float* logits, const std::byte* next) {
          HWY_DYNAMIC_DISPATCH(F16Score)
          (prepared, keys, n, logits, next);
        },
    .accumulate =
        [](const float* weights, const std::byte* values, std::size_t n, float* acc, const std::byte* next) {
          HWY_DYNAMIC_DISPATCH(F16Accumulate)
          (weights, values, n, acc, next);
        },
};

}  // namespace kvant::tools
#endif
