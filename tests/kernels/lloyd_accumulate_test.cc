#include "kernels/lloyd/accumulate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "hwy/tests/hwy_gtest.h"
#include "kernels/lloyd/layout.h"
#include "kernels/lloyd/reference/accumulate.h"
#include "tests/kernels/lloyd_inputs.h"

namespace kvant::kernels {
namespace {

constexpr std::uint32_t kSeed = 13;

class LloydAccumulateTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(LloydAccumulateTest);

/// Any bytes are codes; scales near 1.
void FillBlock(std::uint32_t bits, std::size_t dim, std::size_t tokens, GuardedBytes& block, std::mt19937& random) {
  const std::size_t codes = LloydCodesBytes(bits, dim, tokens);
  for (std::size_t i = 0; i < codes; ++i) block.data()[i] = static_cast<std::uint8_t>(random());
  for (std::size_t t = 0; t < tokens; ++t) {
    const auto scale = static_cast<std::uint16_t>(0x7800u + random() % 0x1000);
    std::memcpy(block.data() + codes + t * sizeof(scale), &scale, sizeof(scale));
  }
}

/// As a softmax leaves them: many small, some exactly 0; one query in five has none at all.
std::vector<float> Weights(std::size_t n, std::size_t stride, std::mt19937& random) {
  auto weights = RandomNormal(n * stride, random);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = random() % 4 == 0 || i / stride % 5 == 3 ? 0.0f : std::exp(2.0f * weights[i]);
  }
  return weights;
}

TEST_P(LloydAccumulateTest, SumsAreTheScalarTwinsBitForBit) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {8u, 40u, 64u, 72u, 80u, 128u, 256u}) {
    for (const std::uint32_t bits : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u}) {
      for (const auto& [n, tiles] : kQueryCounts) {
        AllowTiles(tiles);
        const LloydTable& table = *FindLloydTable(bits);
        const std::size_t tokens = LloydBlockMultiple(bits) * (bits == 8 ? 1 + random() % 20 : 1 + random() % 3);
        GuardedBytes block(LloydBlockBytes(bits, dim, tokens));
        FillBlock(bits, dim, tokens, block, random);
        const std::size_t stride = tokens + 3, acc_stride = dim + 5;
        const auto weights = Weights(n, stride, random);
        const auto start = RandomNormal(n * acc_stride, random);
        auto acc = start;
        GuardedBytes scratch(ByteAccumulateScratchBytes(n));
        LloydAccumulate(table, {dim, tokens, block.raw(), weights.data(), stride, n, acc.data(), acc_stride, scratch.raw(),
                                block.raw(), 5000});
        ASSERT_TRUE(scratch.Intact());
        for (std::size_t i = 0; i < n; ++i) {
          std::vector<float> expected(start.begin() + static_cast<std::ptrdiff_t>(i * acc_stride),
                                      start.begin() + static_cast<std::ptrdiff_t>((i + 1) * acc_stride));
          reference::LloydAccumulate(table, dim, tokens, block.data(), weights.data() + i * stride, expected.data());
          for (std::size_t k = 0; k < acc_stride; ++k) {
            ASSERT_EQ(acc[i * acc_stride + k], expected[k])
                << "dim " << dim << " bits " << bits << " query " << i << " of " << n << " dim " << k << " seed " << kSeed;
          }
        }
      }
    }
  }
}

TEST_P(LloydAccumulateTest, LargestSumsDoNotOverflow) {
  for (const std::uint32_t bits : {4u, 5u, 6u, 7u, 8u}) {
    const LloydTable& table = *FindLloydTable(bits);
    constexpr std::size_t kTokens = 1024, kDim = 8;
    GuardedBytes block(LloydBlockBytes(bits, kDim, kTokens));
    std::memset(block.data(), 0xFF, LloydCodesBytes(bits, kDim, kTokens));
    for (std::size_t t = 0; t < kTokens; ++t) {
      const std::uint16_t one = 31u << 10;
      std::memcpy(block.data() + LloydCodesBytes(bits, kDim, kTokens) + 2 * t, &one, 2);
    }
    const std::vector<float> weights(kTokens, 1.0f);
    std::vector<float> acc(kDim);
    GuardedBytes scratch(ByteAccumulateScratchBytes(1));
    LloydAccumulate(table,
                    {kDim, kTokens, block.raw(), weights.data(), kTokens, 1, acc.data(), kDim, scratch.raw(), nullptr, 0});
    // 1024 times the largest centroid; each of 8 runs rounds its sum and step once.
    const double expected = 1024.0 * table.magnitudes[table.half() - 1];
    for (const float sum : acc) EXPECT_NEAR(sum, expected, expected * 8 * 4 * 0x1p-24) << bits;
  }
}

TEST_P(LloydAccumulateTest, RoundingOfWeightsStaysBelowItsBound) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t bits : {2u, 4u, 5u, 6u, 7u, 8u}) {
    const LloydTable& table = *FindLloydTable(bits);
    constexpr std::size_t kTokens = 256, kDim = 64;
    GuardedBytes block(LloydBlockBytes(bits, kDim, kTokens));
    FillBlock(bits, kDim, kTokens, block, random);
    const auto weights = Weights(1, kTokens, random);
    std::vector<float> acc(kDim);
    GuardedBytes scratch(ByteAccumulateScratchBytes(1));
    LloydAccumulate(table,
                    {kDim, kTokens, block.raw(), weights.data(), kTokens, 1, acc.data(), kDim, scratch.raw(), nullptr, 0});
    for (std::size_t d = 0; d < kDim; ++d) {
      double exact = 0.0, bound = 0.0;
      for (std::size_t first = 0; first < kTokens; first += kWeightRun) {
        double top = 0.0, centroids = 0.0;
        for (std::size_t t = first; t < first + kWeightRun; ++t) {
          const double term = static_cast<double>(weights[t]) * reference::LloydScaleAt(bits, kDim, kTokens, block.data(), t);
          const double c = table.Centroid(LloydIndexAt(LloydLayout::kValues, bits, kDim, kTokens, block.data(), t, d));
          exact += term * c;
          top = std::max(top, term);
          centroids += std::fabs(c);
        }
        bound += 0.5001 * top / LloydWeightMax(bits) * centroids;  // half a step per token; a little for float
      }
      EXPECT_LE(std::fabs(acc[d] - exact), bound) << "bits " << bits << " dim " << d << " seed " << kSeed;
    }
  }
}

}  // namespace
}  // namespace kvant::kernels
