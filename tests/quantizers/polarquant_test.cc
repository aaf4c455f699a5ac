// The mathematics of polarquant: codebooks, error and bias against theory (codecs.md T8), hard rows, sizes.
#include <cmath>
#include <memory>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/polar/reference/polar.h"
#include "kernels/polar/table.h"
#include "quantizers/codec.h"
#include "quantizers/registry.h"
#include "tests/quantizers/lloyd_max.h"
#include "tools/codec_calls.h"

namespace kvant::quantizers {
namespace {

/// The law of an angle of level `level`, about pi / 4: cos(2 t)^(2^(l-1) - 1), normalised.
HalfLaw LawOfAngle(std::uint32_t level) {
  const double half = std::exp2(level - 2), power = 2 * half - 1;
  const double log_norm = std::lgamma(2 * half) - (2 * half - 2) * std::log(2.0) - 2 * std::lgamma(half);
  const double end = std::min(std::numbers::pi / 4, 6 / std::sqrt(power));
  return HalfLaw([=](double t) { return std::exp(log_norm) * std::pow(std::max(std::cos(2 * t), 0.0), power); }, end);
}

TEST(PolarCodebookTest, IsTheBestOfEachLevel) {
  const double published[3][3] = {{.035398, .009909, .002636}, {.020465, .006162, .001720}, {.010857, .003393, .000973}};
  for (std::uint32_t level = 2; level <= kernels::kPolarMaxLevel; ++level) {
    const HalfLaw law = LawOfAngle(level);
    ASSERT_NEAR(2 * law.Moment(0, law.end()), 1.0, 1e-9) << level;
    for (std::uint32_t bits = 1; bits <= kernels::kPolarMaxOthers; ++bits) {
      const test::Codebook best = test::LloydMax(law, bits);
      const kernels::PolarAngles& table = kernels::PolarQuarter(level, bits);
      ASSERT_EQ(table.count, 1U << bits);
      for (std::size_t i = 0; i < table.count / 2; ++i) {
        EXPECT_NEAR(table.angles[table.count / 2 + i] - std::numbers::pi / 4, best.centroids[i], 1e-6) << level << " " << bits;
        EXPECT_NEAR(table.angles[i] + table.angles[table.count - 1 - i], std::numbers::pi / 2, 1e-12);
      }
      for (std::size_t i = 0; i < kernels::kPolarPadded; ++i) {
        EXPECT_FLOAT_EQ(table.cosines[i], static_cast<float>(std::cos(table.angles[i % table.count])));
        EXPECT_FLOAT_EQ(table.sines[i], static_cast<float>(std::sin(table.angles[i % table.count])));
      }
      if (level <= 4 && bits <= 3) {
        EXPECT_NEAR(best.distortion, published[level - 2][bits - 1], 1e-6);
      }
    }
  }
}

TEST(PolarCodebookTest, FoldingAndUnfoldingIsExact) {
  std::mt19937_64 random(1);
  std::normal_distribution<double> normal;
  for (const std::size_t levels : {4U, 7U}) {
    std::vector<double> row(128);
    for (double& x : row) x = normal(random);
    std::vector<std::vector<double>> angles;
    std::vector<double> numbers = row;
    for (std::size_t level = 0; level < levels; ++level) {
      angles.emplace_back();
      for (std::size_t j = 0; j < numbers.size() / 2; ++j) {
        angles.back().push_back(std::atan2(numbers[2 * j + 1], numbers[2 * j]));
        numbers[j] = std::hypot(numbers[2 * j], numbers[2 * j + 1]);
      }
      numbers.resize(numbers.size() / 2);
    }
    const std::vector<double> back = kernels::reference::PolarUnfold(angles, numbers);
    for (std::size_t i = 0; i < row.size(); ++i) EXPECT_NEAR(back[i], row[i], 1e-6);
  }
}

constexpr std::size_t kTokens = 128;

std::unique_ptr<KeyCodec> Keys(const std::string& spec, std::uint32_t dim, std::uint32_t layer = 0) {
  const CodecConfig config{
      .layer = layer, .kv_heads = 1, .head_end = 1, .head_dim = dim, .block_tokens = kTokens, .model = "model"};
  return std::move(MakeKeys(Registry::Builtin().Parse(spec).value(), config)).value();
}

std::vector<float> Decoded(const KeyCodec& codec, const std::vector<float>& rows, std::size_t dim) {
  tools::AlignedBytes block(codec.block_bytes());
  EXPECT_TRUE(tools::EncodeBlock(codec, 0, 0, {rows.data(), ElementType::kF32, kTokens, dim, dim}, block.data()));
  std::vector<float> back(rows.size());
  tools::DecodeBlock(codec, 0, 0, block.data(), 0, kTokens, back.data(), dim);
  return back;
}

std::vector<float> Normal(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& v : x) v = normal(random);
  return x;
}

double Dot(const float* a, const float* b, std::size_t n) {
  double sum = 0;
  for (std::size_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

/// Mean of |x - x'|^2 / |x|^2.
double ErrorOf(const std::vector<float>& rows, const std::vector<float>& back, std::size_t dim) {
  double sum = 0;
  for (std::size_t t = 0; t < kTokens; ++t) {
    std::vector<float> off(dim);
    for (std::size_t i = 0; i < dim; ++i) off[i] = rows[t * dim + i] - back[t * dim + i];
    sum += Dot(off.data(), off.data(), dim) / Dot(&rows[t * dim], &rows[t * dim], dim);
  }
  return sum / kTokens;
}

TEST(PolarQuantTest, ErrorIsThatOfTheTheory) {
  const std::pair<const char*, double> expected[] = {
      {"levels=4,first=4,others=2", .0321},     {"levels=4,first=4,others=3", .0181},
      {"levels=4,first=5,others=3", .0085},     {"levels=full,first=4,others=2", .0352},
      {"levels=full,first=5,others=3", .00942}, {"levels=full,first=3,others=2", .0728}};
  for (const auto& [parameters, error] : expected) {
    const auto codec = Keys(std::string("polarquant:radius=norm,") + parameters, 128);
    EXPECT_NEAR(codec->expected_error(1).value(), error, .02 * error) << parameters;
    double sum = 0;
    constexpr int kBlocks = 32;
    for (int b = 0; b < kBlocks; ++b) {
      const auto rows = Normal(kTokens * 128, 10 + static_cast<std::uint64_t>(b));
      sum += ErrorOf(rows, Decoded(*codec, rows, 128), 128) / kBlocks;
    }
    // A row's error is the sum of 64 pairs' and spreads by a tenth; 4096 rows: 0.2 %.
    EXPECT_NEAR(sum, error, .02 * error) << parameters;
  }
}

/// Mean over rotations of the estimate of <q, x>, |q| = |x| = 1, less its truth, in standard errors; and the mean itself.
std::pair<double, double> Bias(const std::string& spec, double correlation) {
  constexpr std::uint32_t kDim = 64, kRotations = 400;
  // Rows of few numbers are the hard ones for a rotation; q is x turned by a dense direction.
  std::vector<float> rows = Normal(kTokens * kDim, 5);
  std::vector<float> other = Normal(kTokens * kDim, 6);
  double sum = 0, squares = 0;
  for (std::size_t t = 0; t < kTokens; ++t) {
    float *x = &rows[t * kDim], *y = &other[t * kDim];
    const double norm = std::sqrt(Dot(x, x, kDim));
    for (std::size_t i = 0; i < kDim; ++i) x[i] = static_cast<float>(x[i] / norm);
    const double along = Dot(x, y, kDim);
    for (std::size_t i = 0; i < kDim; ++i) y[i] -= static_cast<float>(along) * x[i];
    const double rest = std::sqrt(Dot(y, y, kDim));
    for (std::size_t i = 0; i < kDim; ++i)
      y[i] = static_cast<float>(correlation * x[i] + std::sqrt(1 - correlation * correlation) * y[i] / rest);
  }
  for (std::uint32_t layer = 0; layer < kRotations; ++layer) {
    const auto back = Decoded(*Keys(spec, kDim, layer), rows, kDim);
    double mean = 0;  // of one rotation: its rows are not independent of each other
    for (std::size_t t = 0; t < kTokens; ++t) mean += (Dot(&other[t * kDim], &back[t * kDim], kDim) - correlation) / kTokens;
    sum += mean;
    squares += mean * mean;
  }
  const double mean = sum / kRotations, deviation = std::sqrt(std::max(0.0, squares / kRotations - mean * mean) / kRotations);
  return {mean / (deviation + 1e-5), mean};
}

TEST(PolarQuantTest, KeysAreEstimatedWithoutBias) {
  for (const std::string levels : {"4", "full"}) {
    for (const double correlation : {0.0, .5, 1.0}) {
      EXPECT_LT(std::fabs(Bias("polarquant:levels=" + levels, correlation).first), 4) << levels << " " << correlation;
    }
    // The published radius shrinks scores by half the squared error: the test has power.
    const auto [errors, mean] = Bias("polarquant:radius=norm,levels=" + levels, .5);
    EXPECT_LT(errors, -4);
    EXPECT_NEAR(mean, .5 * -.0165, .5 * .0025) << levels;
  }
}

TEST(PolarQuantTest, HardRowsStayWithinTheDeclaredError) {
  constexpr std::uint32_t kDim = 128, kLayers = 16;
  const auto direction = Normal(kDim, 7);
  const double norm = std::sqrt(Dot(direction.data(), direction.data(), kDim));
  for (const std::string spec : {"polarquant", "polarquant:levels=full", "polarquant:levels=full,first=5,others=3"}) {
    const double declared = Keys(spec, kDim)->expected_error(1).value();
    const auto mean_error = [&](const std::vector<float>& rows) {
      double sum = 0;
      for (std::uint32_t layer = 0; layer < kLayers; ++layer)
        sum += ErrorOf(rows, Decoded(*Keys(spec, kDim, layer), rows, kDim), kDim);
      return sum / kLayers;
    };
    // Rows that are nearly one row are one sample per rotation, which spreads by a tenth: of 16, a fortieth.
    const auto near = [&](const std::vector<float>& rows, const std::string& what) {
      EXPECT_NEAR(mean_error(rows), declared, .15 * declared) << spec << ": " << what;
    };
    for (const double bias : {0.0, 22.0, 605.0, 921.0}) {
      auto rows = Normal(kTokens * kDim, 8);
      for (std::size_t i = 0; i < rows.size(); ++i)
        rows[i] = rows[i] / std::sqrt(static_cast<float>(kDim)) + static_cast<float>(bias * direction[i % kDim] / norm);
      near(rows, "bias " + std::to_string(bias));
    }
    auto outliers = Normal(kTokens * kDim, 9);
    for (std::size_t t = 0; t < kTokens; ++t) {
      for (const std::size_t channel : {3U, 40U, 41U, 100U}) outliers[t * kDim + channel] *= 100.0F;
    }
    near(outliers, "outlier channels");
    near(std::vector<float>(kTokens * kDim, -3.0F), "constant rows");
    std::vector<float> single(kTokens * kDim, 0.0F);
    for (std::size_t t = 0; t < kTokens; ++t) single[t * kDim + t] = 1.0F;
    near(single, "rows of one number");
    const std::vector<float> zeros(kTokens * kDim, 0.0F);
    EXPECT_EQ(Decoded(*Keys(spec, kDim), zeros, kDim), zeros);
  }
}

TEST(PolarQuantTest, TakesExactlyItsBits) {
  for (const std::uint32_t dim : {64U, 80U, 96U, 128U, 256U}) {
    EXPECT_EQ(8 * Keys("polarquant", dim)->block_bytes(), kTokens * dim * 31 / 8) << dim;
    EXPECT_EQ(8 * Keys("polarquant:first=5,others=3", dim)->block_bytes(), kTokens * dim * 77 / 16) << dim;
  }
  const std::pair<std::uint32_t, double> full[] = {{64, 3.2188}, {128, 3.1094}, {256, 3.0547}};
  for (const auto& [dim, bits] : full) {
    EXPECT_NEAR(8.0 * static_cast<double>(Keys("polarquant:levels=full", dim)->block_bytes()) / (kTokens * dim), bits, 5e-5);
  }
}

TEST(PolarQuantTest, SaysWhichHeadSizesItTakes) {
  const auto refused = [](const std::string& spec, std::uint32_t dim, const std::string& what) {
    const CodecConfig config{.kv_heads = 1, .head_end = 1, .head_dim = dim, .block_tokens = kTokens, .model = "model"};
    const auto made = MakeKeys(Registry::Builtin().Parse(spec).value(), config);
    ASSERT_FALSE(made);
    EXPECT_EQ(made.error().code, ErrorCode::kUnsupported);
    EXPECT_NE(made.error().message.find(what), std::string::npos) << made.error().message;
  };
  refused("polarquant", 72, "head_dim 72 is not a multiple of 16");
  refused("polarquant:levels=full", 80, "levels=4 takes it");
}

}  // namespace
}  // namespace kvant::quantizers
