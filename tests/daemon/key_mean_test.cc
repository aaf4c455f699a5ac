// How the common mean of keys is found and judged.
#include "daemon/store/key_mean.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace kvant::daemon {
namespace {

constexpr std::size_t kTokens = 128;
constexpr std::size_t kDim = 128;

/// Normal keys beside a bias of that norm, `blocks` blocks of them.
KeyMean Sampled(double bias_norm, std::size_t blocks) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  std::vector<float> bias(kDim);
  double square = 0.0;
  for (float& b : bias) {
    b = normal(random);
    square += static_cast<double>(b) * static_cast<double>(b);
  }
  for (float& b : bias) b *= static_cast<float>(bias_norm / std::sqrt(square));
  KeyMean mean;
  std::vector<float> rows(kTokens * kDim);
  for (std::size_t block = 0; block < blocks; ++block) {
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = bias[i % kDim] + normal(random);
    mean.Sample({rows.data(), ElementType::kF32, kTokens, kDim, kDim});
  }
  return mean;
}

// |bias|^2 / (|bias|^2 + dim), to four standard deviations of the mean over the pairs: a dot of two normal rows has sqrt(dim),
// a dot of a row with the bias its norm, twice.
TEST(KeyMeanTest, FindsTheShareOfTheMean) {
  for (const double norm : {0.0, 5.0, 22.0, 605.0}) {
    const KeyMean mean = Sampled(norm, 32);
    ASSERT_EQ(mean.pairs, 128u);
    const double energy = norm * norm + kDim;
    const double deviation = std::sqrt(kDim + 2.0 * norm * norm) / energy / std::sqrt(128.0);
    EXPECT_NEAR(mean.share(), norm * norm / energy, 4.0 * deviation) << norm;
  }
}

TEST(KeyMeanTest, JudgesByTheCodecsError) {
  // Expected squared errors of turboquant_mse at 2, 4 and 8 bits, of int8, and of f16.
  const KeyMean none = Sampled(0.0, 8);
  for (const double error : {0.1175, 0.0095, 4e-5}) EXPECT_FALSE(MeanSpoilsCodes(none, error)) << error;
  const KeyMean large = Sampled(605.0, 8);
  EXPECT_TRUE(MeanSpoilsCodes(large, 0.0095));
  EXPECT_TRUE(MeanSpoilsCodes(large, 4.2e-5));
  EXPECT_FALSE(MeanSpoilsCodes(large, 1e-7));
  const KeyMean modest = Sampled(12.0, 32);  // about half of the energy
  EXPECT_FALSE(MeanSpoilsCodes(modest, 0.0095));
  EXPECT_TRUE(MeanSpoilsCodes(Sampled(22.0, 32), 0.0095));
  EXPECT_FALSE(MeanSpoilsCodes(Sampled(605.0, 1), 0.0095)) << "four pairs are too few";
}

TEST(KeyMeanTest, RowsThatAreNotFiniteAreLeftOut) {
  std::vector<float> rows(kTokens * kDim, 1.0f);
  rows[0] = std::numeric_limits<float>::quiet_NaN();
  rows[kTokens / 2 * kDim + 16 * kDim] = std::numeric_limits<float>::infinity();
  KeyMean mean;
  mean.Sample({rows.data(), ElementType::kF32, kTokens, kDim, kDim});
  EXPECT_EQ(mean.pairs, 2u);
  EXPECT_EQ(mean.share(), 1.0);
  EXPECT_EQ(KeyMean{}.share(), 0.0);
}

TEST(KeyMeanTest, BlocksOfFewTokensGivePairsToo) {
  std::vector<float> rows(16 * 8, 2.0f);
  KeyMean mean;
  mean.Sample({rows.data(), ElementType::kF32, 16, 8, 8});
  EXPECT_EQ(mean.pairs, 4u);
}

}  // namespace
}  // namespace kvant::daemon
