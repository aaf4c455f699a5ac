// Signs of sketches against their theory (codecs.md T6), and what they take in memory.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "quantizers/plan.h"
#include "quantizers/sketch.h"
#include "tests/quantizers/inner_products.h"

namespace kvant::quantizers {
namespace {

constexpr std::uint32_t kSeed = 71;
constexpr double kHalfPi = std::numbers::pi / 2.0;

std::string QjlSpec(std::size_t m, const std::string& sketch) { return "qjl:m=" + std::to_string(m) + ",sketch=" + sketch; }

TEST(QjlTest, TakesABitPerProjectionAndSixteenPerRow) {
  for (const std::uint32_t dim : {64u, 80u, 96u, 128u, 256u}) {
    for (const std::uint32_t m : {0u, 64u, dim, 4 * dim}) {
      const auto keys = TurboQuant{.spec = QjlSpec(m, "orthogonal"), .head_dim = dim}.Keys();
      const double bits = (m == 0 ? 2.0 * dim : m) / dim + 16.0 / dim;
      EXPECT_NEAR(8.0 * static_cast<double>(keys->block_bytes()) / (128.0 * dim), bits, 1e-12) << dim << " " << m;
    }
  }
}

TEST(QjlTest, RefusesOddNumbersOfProjections) {
  const auto odd = TurboQuant{.spec = "qjl:m=100"}.TryKeys();
  ASSERT_FALSE(odd);
  EXPECT_EQ(odd.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(odd.error().message.find("m=100 is not a multiple of 8"), std::string::npos) << odd.error().message;
  const auto wide = TurboQuant{.spec = "qjl", .head_dim = 1024}.TryKeys();
  ASSERT_FALSE(wide);
  EXPECT_EQ(wide.error().code, ErrorCode::kUnsupported);
}

// codecs.md T6: (pi/2 |q|^2 |k|^2 - <q, k>^2) / m.
TEST(QjlTest, GaussianSketchesHaveThePapersVariance) {
  std::mt19937 random(kSeed);
  for (const std::size_t m : {64u, 128u, 256u}) {
    for (const double rho : {0.0, 0.5, 1.0}) {
      // 30000 pairs: the standard error of the variance is 0.8 % of it. Pairs of a block share their matrix: half as much
      // again.
      const Sample errors = InnerProductErrors(QjlSpec(m, "gaussian"), 128, rho, 235, random);
      EXPECT_LT(std::fabs(errors.mean()), 4 * errors.standard_error() + 2e-3 * rho) << m << " rho " << rho << " seed " << kSeed;
      EXPECT_NEAR(static_cast<double>(m) * errors.variance() / (kHalfPi - rho * rho), 1.0, 0.035) << m << " rho " << rho;
    }
  }
}

// At m = head_dim the error of codes of one bit, D / (1 - D), stands across k; along k only the sum of magnitudes varies.
TEST(QjlTest, OrthogonalSketchesHaveTheVarianceOfSigns) {
  std::mt19937 random(kSeed);
  for (const std::size_t turns : {1u, 2u}) {
    for (const double rho : {0.0, 0.5}) {
      const Sample errors = InnerProductErrors(QjlSpec(turns * 128, "orthogonal"), 128, rho, 235, random);
      EXPECT_LT(std::fabs(errors.mean()), 4 * errors.standard_error()) << turns << " rho " << rho << " seed " << kSeed;
      const double expected = (kHalfPi - 1.0) * (1.0 - rho * rho) + (kHalfPi - 1.5) * rho * rho;
      EXPECT_NEAR(static_cast<double>(turns * 128) * errors.variance() / expected, 1.0, 0.035) << turns << " rho " << rho;
    }
  }
}

TEST(QjlTest, OrthogonalSketchesAreUnbiasedAtEveryHeadSize) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {16u, 24u, 80u}) {
    for (const std::uint32_t m : {8u, dim, 3 * dim - 8}) {
      const Sample errors = InnerProductErrors(QjlSpec(m, "orthogonal"), dim, 1.0, 200, random);
      EXPECT_LT(std::fabs(errors.mean()), 4 * errors.standard_error()) << dim << " " << m << " seed " << kSeed;
      // The constant of infinitely many dims would be seen: it is 1 / (4 dim) off.
      if (dim < 80) {
        EXPECT_GT(0.25 / dim, 4 * errors.standard_error()) << dim << " " << m;
      }
    }
  }
}

TEST(QjlTest, WhatReadsBackHasTheDeclaredErrorAtAnyNumberOfProjections) {
  std::mt19937 random(kSeed);
  for (const char* sketch : {"orthogonal", "gaussian"}) {
    for (const std::uint32_t m : {24u, 64u, 96u, 200u, 256u}) {
      Sample errors;
      double declared = 0;
      for (int b = 0; b < 30; ++b) {
        const TurboQuant made{.spec = QjlSpec(m, sketch), .head_dim = 64, .model = "model " + std::to_string(b)};
        const auto rows = NormalNumbers(kRowsOfBlock * 64, random);
        errors.Add(RelativeError(rows, RoundTrip(*made.Keys(), 0, rows, 64)));
        declared = made.Declared(Side::kKeys);
      }
      EXPECT_NEAR(errors.mean(), declared, 4.5 * errors.standard_error() + 0.01 * declared) << sketch << " " << m;
    }
  }
}

TEST(QjlTest, CosinesAreThePublishedOnes) {
  std::mt19937 random(kSeed);
  EXPECT_NEAR(MeanCosine(QjlSpec(128, "gaussian"), 128, 20, random), .6237, .003);
  EXPECT_NEAR(MeanCosine(QjlSpec(128, "orthogonal"), 128, 20, random), .7994, .002);
}

TEST(QjlTest, ScoresGrowWithTheKey) {
  std::mt19937 random(kSeed);
  const auto keys = TurboQuant{.spec = "qjl"}.Keys();
  auto rows = NormalNumbers(128 * 128, random);
  const auto queries = NormalNumbers(4 * 128, random);
  AlignedBytes block(keys->block_bytes());
  ASSERT_TRUE(EncodeBlock(*keys, 0, 0, RowsOf(rows, 128), block.data()));
  const auto logits = ScoreBlock(*keys, 0, queries, 4, block.data(), 128);
  for (float& v : rows) v *= 8.0f;
  ASSERT_TRUE(EncodeBlock(*keys, 0, 0, RowsOf(rows, 128), block.data()));
  const auto larger = ScoreBlock(*keys, 0, queries, 4, block.data(), 128);
  for (std::size_t i = 0; i < logits.size(); ++i) ASSERT_EQ(larger[i], 8.0f * logits[i]) << i;
}

TEST(SketchTest, GaussianNumbersAreNormal) {
  // Means over unit vectors would be blind to the law; one-hot rows see single numbers.
  const Sketch sketch(SketchKind::kGaussian, 64, 1024, {"test", 1, "model", 0, 0, Side::kKeys, 0});
  std::vector<float> rows(16 * 64, 0.0f), signs(16 * 1024, 0.0f);
  AlignedBytes scratch(Sketch::TransposeScratchBytes(64));
  double sum = 0, square = 0, fourth = 0, n = 0;
  for (std::size_t i = 0; i < 1024; ++i) {
    std::fill(rows.begin(), rows.end(), 0.0f);
    std::fill(signs.begin(), signs.end(), 0.0f);
    signs[i] = 1.0f;
    sketch.AddTransposed(signs.data(), 1, rows.data(), scratch.data());
    for (std::size_t k = 0; k < 64; ++k) {
      const double x = rows[k];
      sum += x, square += x * x, fourth += x * x * x * x, n += 1;
    }
  }
  EXPECT_NEAR(sum / n, 0.0, 4 / std::sqrt(n));
  EXPECT_NEAR(square / n, 1.0, 4 * std::sqrt(2 / n));
  EXPECT_NEAR(fourth / n, 2.992, 4 * std::sqrt(96 / n));
}

TEST(SketchTest, PlansMakeRoomForDenseMatrices) {
  const Registry registry = Registry::Builtin();
  StoreSpec spec;
  spec.name = spec.model = spec.tokenizer = "test";
  spec.layers = 4;
  spec.kv_heads = 8;
  spec.head_dim = spec.block_tokens = 128;
  for (const char* keys : {"qjl:sketch=gaussian", "qjl:m=1024", "turboquant_prod:sketch=gaussian", "turboquant_prod", "qjl"}) {
    spec.plan.keys = keys;
    spec.plan.values = "f16";
    const auto plan = Plan::Make(registry, spec);
    ASSERT_TRUE(plan) << plan.error().message;
    EXPECT_LE((*plan)->memory_bytes(), PlanBytes(registry, spec)) << keys;
    EXPECT_GE((*plan)->memory_bytes() * 4, PlanBytes(registry, spec)) << keys;
  }
}

}  // namespace
}  // namespace kvant::quantizers
