// Bits by water-filling against brute force and against rate-distortion theory (codecs.md T10).
#include "quantizers/water_filling.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <numeric>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace kvant::quantizers {
namespace {

double CostOf(const std::vector<double>& weights, const std::vector<std::uint32_t>& bits) {
  double cost = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) cost += weights[i] * LloydErrors()[bits[i]];
  return cost;
}

/// The least cost of any way to spend at most `left` bits on parts from `part` on.
double Least(const std::vector<double>& weights, std::size_t part, std::size_t left) {
  if (part == weights.size()) return 0;
  double least = 1e300;
  for (std::size_t bits = 0; bits <= left && bits < LloydErrors().size(); ++bits)
    least = std::min(least, weights[part] * LloydErrors()[bits] + Least(weights, part + 1, left - bits));
  return least;
}

TEST(WaterFillingTest, EqualsBruteForce) {
  std::mt19937_64 random(2);
  std::lognormal_distribution<double> spread(0, 2);
  for (int repeat = 0; repeat < 300; ++repeat) {
    std::vector<double> weights(1 + random() % 6);
    for (double& weight : weights) weight = spread(random);
    const std::size_t total = random() % 7;
    const auto bits = FillBits({.weights = weights, .errors = LloydErrors(), .bits = total});
    EXPECT_EQ(std::accumulate(bits.begin(), bits.end(), std::size_t{0}), total);
    EXPECT_NEAR(CostOf(weights, bits), Least(weights, 0, total), 1e-12 * CostOf(weights, bits));
  }
}

TEST(WaterFillingTest, GainsWhatTheorySaysOfPowerLaws) {
  const struct {
    double power, bits_gained, least, most;  // codecs.md 2.5
  } laws[] = {{1, .52, 1.9, 2.05}, {1.5, 1.34, 6.1, 6.6}, {2, 2.45, 27, 31}};
  for (const auto& law : laws) {
    constexpr std::size_t kDim = 128;
    std::vector<double> variances(kDim);
    double sum = 0, logs = 0;
    for (std::size_t i = 0; i < kDim; ++i) {
      variances[i] = std::pow(static_cast<double>(i + 1), -law.power);
      sum += variances[i];
      logs += std::log2(variances[i]);
    }
    EXPECT_NEAR(.5 * (std::log2(sum / kDim) - logs / kDim), law.bits_gained, .01 * law.bits_gained + .005) << law.power;
    for (const std::size_t average : {4U}) {
      const auto bits = FillBits({.weights = variances, .errors = LloydErrors(), .bits = average * kDim});
      const double gain = sum * LloydErrors()[average] / CostOf(variances, bits);
      EXPECT_GT(gain, .99 * law.least) << law.power << " " << average;
      EXPECT_LT(gain, 1.01 * law.most) << law.power << " " << average;
    }
  }
}

// A step of four bits saves more than one of a single bit, and less of each bit.
TEST(WaterFillingTest, WhatCountsIsWhatABitSaves) {
  const double weights[] = {100, 1};
  const std::uint32_t allowed[] = {0, 1, 2, 3, 4, 8};
  EXPECT_EQ(FillBits({.weights = weights, .errors = LloydErrors(), .allowed = allowed, .bits = 8}),
            (std::vector<std::uint32_t>{4, 4}));
}

TEST(WaterFillingTest, KeepsToRunsToTheBudgetAndToWhatIsAllowed) {
  std::mt19937_64 random(3);
  std::lognormal_distribution<double> spread(0, 2);
  std::vector<double> weights(64);
  for (double& weight : weights) weight = spread(random);
  const std::uint32_t allowed[] = {0, 1, 2, 3, 4, 8};
  for (const std::size_t total : {0U, 7U, 64U, 200U, 512U, 9999U}) {
    const auto bits = FillBits({.weights = weights, .errors = LloydErrors(), .allowed = allowed, .bits = total, .run = 8});
    EXPECT_LE(std::accumulate(bits.begin(), bits.end(), std::size_t{0}), total);
    for (const std::uint32_t each : allowed) EXPECT_EQ(std::ranges::count(bits, each) % 8, 0) << each;
    for (const std::uint32_t each : bits) EXPECT_NE(std::ranges::find(allowed, each), std::end(allowed));
    for (std::size_t i = 0; i < 64; ++i) {
      for (std::size_t j = 0; j < 64; ++j) {
        if (weights[i] > weights[j]) {
          EXPECT_GE(bits[i], bits[j]);
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvant::quantizers
