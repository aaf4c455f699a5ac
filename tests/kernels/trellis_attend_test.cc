#include "kernels/trellis/attend.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "hwy/tests/hwy_gtest.h"
#include "kernels/lloyd/query.h"
#include "kernels/lloyd/reference/query.h"
#include "kernels/trellis/reference/attend.h"
#include "kernels/ufloat16.h"
#include "tests/kernels/lloyd_inputs.h"

namespace kvant::kernels {
namespace {

constexpr std::uint32_t kSeed = 31;

class TrellisAttendTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(TrellisAttendTest);

/// Any bytes are codes; scales near 1.
void FillBlock(std::uint32_t bits, std::size_t dim, std::size_t tokens, GuardedBytes& block, std::mt19937& random) {
  const std::size_t codes = LloydCodesBytes(bits, dim, tokens);
  for (std::size_t i = 0; i < codes; ++i) block.data()[i] = static_cast<std::uint8_t>(random());
  for (std::size_t t = 0; t < tokens; ++t) {
    const auto scale = static_cast<std::uint16_t>(0x7800u + random() % 0x1000);
    std::memcpy(block.data() + codes + t * sizeof(scale), &scale, sizeof(scale));
  }
}

TEST_P(TrellisAttendTest, LogitsAreTheScalarTwinsBitForBit) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {48u, 64u, 80u, 128u}) {
    const auto shape = HadamardShape::For(dim);
    MapTables tables;
    for (const std::uint32_t bits : {1u, 2u, 3u, 4u}) {
      const TrellisTable& table = *FindTrellisTable(bits);
      for (const auto& [n, tiles] : kQueryCounts) {
        AllowTiles(tiles);
        const auto signs = RandomSigns(shape, 3, random);
        const std::size_t tokens = LloydBlockMultiple(bits) * (1 + random() % 2);
        GuardedBytes block(LloydBlockBytes(bits, dim, tokens));
        FillBlock(bits, dim, tokens, block, random);
        const auto queries = RandomNormal(n * dim, random);
        const LloydQueryConfig config{&table.plain, MapOf(shape, 3, signs, tables), nullptr};
        GuardedBytes prepared((n + kLanes - 1) / kLanes * LloydQueryBatchBytes(bits, dim));
        GuardedBytes rotation(RotationScratchBytes(dim));
        LloydPrepareQueries(config, queries.data(), n, prepared.raw(), rotation.raw());
        std::vector<float> logits(n * tokens);
        GuardedBytes scratch(ByteScoreScratchBytes(n, dim));
        TrellisScore(table,
                     {dim, tokens, block.raw(), prepared.raw(), n, logits.data(), tokens, scratch.raw(), block.raw(), 4096});
        ASSERT_TRUE(scratch.Intact());
        for (std::size_t i = 0; i < n; i += 1 + n / 4) {
          const auto query = reference::PrepareLloydQuery(config, queries.data() + i * dim);
          for (std::size_t t = 0; t < tokens; ++t) {
            ASSERT_EQ(logits[i * tokens + t], reference::TrellisLogit(table, dim, tokens, block.data(), t, query))
                << "dim " << dim << " bits " << bits << " query " << i << " of " << n << " token " << t << " seed " << kSeed;
          }
        }
      }
    }
  }
}

TEST_P(TrellisAttendTest, SumsAreTheScalarTwinsBitForBit) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {48u, 64u, 80u, 128u}) {
    for (const std::uint32_t bits : {1u, 2u, 3u, 4u}) {
      const TrellisTable& table = *FindTrellisTable(bits);
      for (const auto& [n, tiles] : kQueryCounts) {
        AllowTiles(tiles);
        const std::size_t tokens = LloydBlockMultiple(bits) * (1 + random() % 2);
        GuardedBytes block(LloydBlockBytes(bits, dim, tokens));
        FillBlock(bits, dim, tokens, block, random);
        auto weights = RandomNormal(n * tokens, random);
        for (float& weight : weights) weight = random() % 4 == 0 ? 0.0f : std::exp(2.0f * weight);
        const auto start = RandomNormal(n * dim, random);
        auto acc = start;
        GuardedBytes scratch(ByteAccumulateScratchBytes(n));
        TrellisAccumulate(
            table, {dim, tokens, block.raw(), weights.data(), tokens, n, acc.data(), dim, scratch.raw(), block.raw(), 5000});
        ASSERT_TRUE(scratch.Intact());
        for (std::size_t i = 0; i < n; i += 1 + n / 4) {
          std::vector<float> expected(&start[i * dim], &start[i * dim] + dim);
          reference::TrellisAccumulate(table, dim, tokens, block.data(), &weights[i * tokens], expected.data());
          for (std::size_t k = 0; k < dim; ++k) {
            ASSERT_EQ(acc[i * dim + k], expected[k])
                << "dim " << dim << " bits " << bits << " query " << i << " of " << n << " dim " << k << " seed " << kSeed;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvant::kernels
