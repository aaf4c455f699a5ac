#include "kernels/lloyd/score.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "hwy/tests/hwy_gtest.h"
#include "kernels/lloyd/layout.h"
#include "kernels/lloyd/query.h"
#include "kernels/lloyd/reference/query.h"
#include "kernels/lloyd/reference/score.h"
#include "kernels/ufloat16.h"
#include "tests/kernels/lloyd_inputs.h"

namespace kvant::kernels {
namespace {

constexpr std::uint32_t kSeed = 12;

class LloydScoreTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(LloydScoreTest);

/// Any bytes are codes; scales of all sizes.
void FillBlock(std::uint32_t bits, std::size_t dim, std::size_t tokens, GuardedBytes& block, std::mt19937& random) {
  const std::size_t codes = LloydCodesBytes(bits, dim, tokens);
  for (std::size_t i = 0; i < codes; ++i) block.data()[i] = static_cast<std::uint8_t>(random());
  for (std::size_t t = 0; t < tokens; ++t) {
    const auto scale = static_cast<std::uint16_t>(random() % 0x10000);
    std::memcpy(block.data() + codes + t * sizeof(scale), &scale, sizeof(scale));
  }
}

TEST_P(LloydScoreTest, LogitsAreTheScalarTwinsBitForBit) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {8u, 40u, 64u, 72u, 80u, 128u, 256u}) {
    const auto shape = HadamardShape::For(dim);
    MapTables tables;
    const auto mean = RandomNormal(dim, random);
    for (const std::uint32_t bits : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u}) {
      for (const auto& [n, tiles] : kQueryCounts) {
        AllowTiles(tiles);
        const std::size_t rounds = 2 + random() % 3;
        const auto signs = RandomSigns(shape, rounds, random);
        const std::size_t tokens = LloydBlockMultiple(bits) * (1 + random() % 3);
        GuardedBytes block(LloydBlockBytes(bits, dim, tokens));
        FillBlock(bits, dim, tokens, block, random);
        auto queries = RandomNormal(n * dim, random);
        if (n > 2) std::fill(queries.begin() + dim, queries.begin() + 2 * dim, 0.0f);
        if (n > 3) {  // numbers whose squares are too large or too small
          for (std::size_t k = 0; k < dim; ++k) queries[k] *= n % 2 == 0 ? 1e25f : 1e-25f;
          queries[2 * dim + 3] = 1e3f;  // one channel above all others
        }
        const LloydQueryConfig config{FindLloydTable(bits), MapOf(shape, rounds, signs, tables),
                                      random() % 2 == 0 ? nullptr : mean.data()};
        GuardedBytes prepared((n + kLanes - 1) / kLanes * LloydQueryBatchBytes(bits, dim));
        GuardedBytes rotation(RotationScratchBytes(dim));
        LloydPrepareQueries(config, queries.data(), n, prepared.raw(), rotation.raw());
        ASSERT_TRUE(prepared.Intact() && rotation.Intact());
        const std::size_t stride = tokens + 7;
        constexpr float kUntouched = -12345.0f;
        std::vector<float> logits(n * stride, kUntouched);
        GuardedBytes scratch(ByteScoreScratchBytes(n, dim));
        LloydScore(*config.table,
                   {dim, tokens, block.raw(), prepared.raw(), n, logits.data(), stride, scratch.raw(), block.raw(), 4096});
        ASSERT_TRUE(scratch.Intact());
        for (std::size_t i = 0; i < n; ++i) {
          const auto query = reference::PrepareLloydQuery(config, queries.data() + i * dim);
          for (std::size_t t = 0; t < stride; ++t) {
            const float expected =
                t < tokens ? reference::LloydLogit(*config.table, dim, tokens, block.data(), t, query) : kUntouched;
            ASSERT_EQ(logits[i * stride + t], expected)
                << "dim " << dim << " bits " << bits << " query " << i << " of " << n << " token " << t << " seed " << kSeed;
          }
        }
      }
    }
  }
}

TEST_P(LloydScoreTest, LargestSumsDoNotOverflow) {
  for (const std::uint32_t dim : {128u, 256u, 512u, 1024u}) {
    const auto shape = HadamardShape::For(dim);
    std::mt19937 random(kSeed);
    const auto signs = RandomSigns(shape, 1, random);
    MapTables tables;
    for (const std::uint32_t bits : {4u, 5u, 6u, 7u, 8u}) {
      const std::size_t tokens = LloydBlockMultiple(bits);
      GuardedBytes block(LloydBlockBytes(bits, dim, tokens));
      std::memset(block.data(), 0xFF, LloydCodesBytes(bits, dim, tokens));  // the largest centroid everywhere
      for (std::size_t t = 0; t < tokens; ++t) {
        const std::uint16_t one = FloatToUfloat16(1.0f);
        std::memcpy(block.data() + LloydCodesBytes(bits, dim, tokens) + 2 * t, &one, 2);
      }
      // A query whose rotation is constant: the inverse rotation of ones.
      GuardedBytes columns(dim * kLanes * sizeof(float));
      auto* x = reinterpret_cast<float*>(columns.data());
      std::fill(x, x + dim * kLanes, 1.0f);
      HadamardInverse(shape, 1, signs.data(), x);
      std::vector<float> query(dim);
      for (std::size_t i = 0; i < dim; ++i) query[i] = x[i * kLanes];
      const LloydQueryConfig config{FindLloydTable(bits), MapOf(shape, 1, signs, tables), nullptr};
      GuardedBytes prepared(LloydQueryBatchBytes(bits, dim));
      GuardedBytes rotation(RotationScratchBytes(dim));
      LloydPrepareQueries(config, query.data(), 1, prepared.raw(), rotation.raw());
      std::vector<float> logits(tokens);
      LloydScore(*config.table, {dim, tokens, block.raw(), prepared.raw(), 1, logits.data(), tokens, nullptr, nullptr, 0});
      const auto expected = reference::LloydLogit(*config.table, dim, tokens, block.data(), 0,
                                                  reference::PrepareLloydQuery(config, query.data()));
      EXPECT_GT(expected, 0.0f) << dim << " " << bits;
      for (const float logit : logits) ASSERT_EQ(logit, expected) << dim << " " << bits;
    }
  }
}

TEST_P(LloydScoreTest, QueriesThatAreNotFiniteStayWithinTheirMemory) {
  std::mt19937 random(kSeed);
  const auto shape = HadamardShape::For(64);
  const auto signs = RandomSigns(shape, 3, random);
  MapTables tables;
  GuardedBytes block(LloydBlockBytes(4, 64, 32));
  FillBlock(4, 64, 32, block, random);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 3e38f}) {
    std::vector<float> queries(3 * 64, bad);
    GuardedBytes prepared(LloydQueryBatchBytes(4, 64)), rotation(RotationScratchBytes(64));
    LloydPrepareQueries({FindLloydTable(4), MapOf(shape, 3, signs, tables), nullptr}, queries.data(), 3, prepared.raw(),
                        rotation.raw());
    std::vector<float> logits(3 * 32 + 1, 5.0f);
    LloydScore(*FindLloydTable(4), {64, 32, block.raw(), prepared.raw(), 3, logits.data(), 32, nullptr, nullptr, 0});
    EXPECT_TRUE(prepared.Intact());
    EXPECT_EQ(logits.back(), 5.0f);
  }
}

}  // namespace
}  // namespace kvant::kernels
