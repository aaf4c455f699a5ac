// Block means, gains and calibrated matrices before the codes of keys: what they cost, what they cure, what is refused.
#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "quantizers/calibrated_gauge.h"
#include "tests/quantizers/turboquant_mse_fixture.h"

namespace kvant::quantizers {
namespace {

constexpr std::uint32_t kSeed = 52;
constexpr std::size_t kTokens = 128;

std::string Spec(std::uint32_t bits, const std::string& more = "") {
  return "turboquant_mse:bits=" + std::to_string(bits) + more;
}
std::string Gauged(std::uint32_t bits, const char* gauge) { return Spec(bits, std::string(",gauge=") + gauge); }

/// Rows of N(0, 1) times a factor per channel, plus a mean.
std::vector<float> Rows(std::size_t dim, const std::vector<float>& spread, const std::vector<float>& mean,
                        std::mt19937& random) {
  auto rows = NormalNumbers(kTokens * dim, random);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = rows[i] * spread[i % dim] + mean[i % dim];
  return rows;
}

/// A direction of some norm, most of it in few channels, as biases of projections are.
std::vector<float> Bias(std::size_t dim, float norm, std::mt19937& random) {
  auto bias = NormalNumbers(dim, random);
  double square = 0;
  for (auto& b : bias) {
    b = b * b * b;
    square += double{b} * double{b};
  }
  for (auto& b : bias) b *= norm / static_cast<float>(std::sqrt(square));
  return bias;
}

/// The mean square of what scores of some random queries are off by, divided by the queries' dims.
double ScoreError(const KeyCodec& keys, const std::vector<float>& rows, std::size_t dim, std::mt19937& random) {
  AlignedBytes block(keys.block_bytes());
  EncodeBlock(keys, 0, 0, RowsOf(rows, dim), block.data()).value();
  constexpr std::size_t kQueries = 8;
  const auto queries = NormalNumbers(kQueries * dim, random);
  const auto logits = ScoreBlock(keys, 0, queries, kQueries, block.data(), kTokens);
  double error = 0;
  for (std::size_t i = 0; i < kQueries; ++i) {
    for (std::size_t t = 0; t < kTokens; ++t) {
      error += std::pow(static_cast<double>(logits[i * kTokens + t]) - Dot(&queries[i * dim], &rows[t * dim], dim), 2);
    }
  }
  return error / static_cast<double>(kQueries * kTokens * dim);
}

TEST(GaugeSizeTest, AMeanTakesTwoBytesPerChannelAndGainsOne) {
  for (const std::uint32_t dim : {64u, 80u, 96u, 128u, 256u}) {
    for (const std::uint32_t bits : {1u, 2u, 3u, 4u, 8u}) {
      const auto bytes = [&](const char* gauge) {
        return TurboQuant{.spec = Gauged(bits, gauge), .head_dim = dim}.Keys()->block_bytes();
      };
      const std::size_t plain = kTokens * dim * bits / 8 + kTokens * 2;
      EXPECT_EQ(bytes("none"), plain);
      EXPECT_EQ(bytes("mean"), plain + 2 * dim);
      EXPECT_EQ(bytes("block"), plain + 3 * dim);
      EXPECT_EQ(bytes("channels"), plain + 3 * dim);
      EXPECT_EQ((TurboQuant{.spec = Spec(bits), .head_dim = dim}.Keys()->block_bytes()), plain + 3 * dim) << "the default";
      EXPECT_EQ((TurboQuant{.spec = Spec(bits), .head_dim = dim}.Values()->block_bytes()), plain) << "values have none";
    }
  }
}

/// T16 and the matrix of biases: a common part of any size changes nothing but what rounding the mean to f16 leaves, at most
/// half a unit of its last place: 2^-11 of the number, spread over its rows as a bias of at most that much.
TEST(GaugeTest, ACommonPartCostsNothing) {
  constexpr std::size_t kDim = 64;
  for (const std::uint32_t bits : {2u, 4u}) {
    for (const float norm : {0.0f, 22.0f, 605.0f, 921.0f}) {
      std::mt19937 random(kSeed);
      const std::vector<float> ones(kDim, 1.0f);
      const auto bias = Bias(kDim, norm, random);
      const auto rows = Rows(kDim, ones, bias, random);
      double rounded = 0;
      for (const float b : bias) rounded += std::pow(std::ldexp(double{b}, -11), 2) / kDim;
      for (const char* gauge : {"mean", "block"}) {
        const TurboQuant codec{.spec = Gauged(bits, gauge), .head_dim = kDim};
        const double declared = codec.Declared(Side::kKeys);
        // Rows are unit rows around the mean, so the error of a score over |q|^2 is the declared one; 128 rows and 8 queries
        // leave 10 %.
        EXPECT_LT(ScoreError(*codec.Keys(), rows, kDim, random), 1.2 * declared * (1 + rounded))
            << bits << " bits, " << gauge << ", a common part of norm " << norm;
      }
      const TurboQuant plain{.spec = Gauged(bits, "none"), .head_dim = kDim};
      if (norm > 100.0f) {
        EXPECT_GT(ScoreError(*plain.Keys(), rows, kDim, random), 100 * plain.Declared(Side::kKeys)) << "this test has power";
      }
    }
  }
}

/// With gains the error of a channel grows with the root of its own spread, no longer with the largest one.
TEST(GaugeTest, LoudChannelsDoNotDrownQuietOnes) {
  constexpr std::size_t kDim = 128;
  std::mt19937 random(kSeed + 1);
  std::vector<float> spread(kDim, 1.0f);
  for (const std::size_t loud : {3u, 40u, 77u, 101u}) spread[loud] = 100.0f;
  const auto rows = Rows(kDim, spread, std::vector<float>(kDim, 0.0f), random);
  const auto decoded = [&](const char* gauge) {
    return RoundTrip(*TurboQuant{.spec = Gauged(4, gauge)}.Keys(), 0, rows, kDim);
  };
  const auto quiet = [&](const std::vector<float>& read) {
    double error = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (spread[i % kDim] == 1.0f) error += std::pow(static_cast<double>(read[i]) - double{rows[i]}, 2);
    }
    return error / static_cast<double>(kTokens * (kDim - 4));
  };
  const double with_mean = quiet(decoded("mean")), with_gains = quiet(decoded("block"));
  EXPECT_GT(with_mean, 1.0) << "the mean alone leaves quiet channels below the noise";
  EXPECT_LT(with_gains, 0.1 * with_mean);
}

/// Channels of spread s divided by the root of s: an error of D per coded number comes back as D s mean(s), and that of scores
/// of unit queries is its mean over channels, D mean(s)^2, the least that gains can reach; without gains it is D mean(s^2). The
/// 8 queries of a block leave a standard deviation of 10 %, those of 16 blocks 2.6 %; gains are rounded to a sixteenth.
TEST(GaugeTest, GainsOfAllChannelsReachTheLeastErrorOfScores) {
  constexpr std::size_t kDim = 64, kBlocks = 16;
  std::vector<float> spread(kDim);
  double mean = 0, square = 0;
  for (std::size_t i = 0; i < kDim; ++i) {
    spread[i] = std::exp2(static_cast<float>(i % 8) - 3.5f);
    mean += double{spread[i]} / kDim;
    square += double{spread[i]} * double{spread[i]} / kDim;
  }
  for (const std::uint32_t bits : {2u, 4u}) {
    const double declared = TurboQuant{.spec = Gauged(bits, "none"), .head_dim = kDim}.Declared(Side::kKeys);
    const auto error = [&](const char* gauge) {
      std::mt19937 random(kSeed + 7);
      const auto keys = TurboQuant{.spec = Gauged(bits, gauge), .head_dim = kDim}.Keys();
      double sum = 0;
      for (std::size_t b = 0; b < kBlocks; ++b) {
        sum += ScoreError(*keys, Rows(kDim, spread, Bias(kDim, 22.0f, random), random), kDim, random) / kBlocks;
      }
      return sum;
    };
    EXPECT_NEAR(error("channels"), declared * mean * mean, 0.1 * declared * mean * mean) << bits << " bits";
    EXPECT_GT(error("block"), 1.2 * declared * mean * mean) << "few gains do not reach it";
    EXPECT_GT(error("mean"), 0.8 * declared * square) << "this test has power";
  }
}

TEST(GaugeTest, ConstantBlocksComeBack) {
  constexpr std::size_t kDim = 64;
  for (const char* gauge : {"block", "channels"}) {
    const TurboQuant codec{.spec = Gauged(4, gauge), .head_dim = kDim};
    for (const float number : {0.0f, 1.0f, -921.0f}) {
      const std::vector<float> same(kTokens * kDim, number);
      EXPECT_EQ(RoundTrip(*codec.Keys(), 0, same, kDim), same);
    }
  }
}

/// Where most channels are constant, the median says nothing, and the others still come back.
TEST(GaugeTest, AFewChannelsAmongConstantOnesKeepTheirError) {
  constexpr std::size_t kDim = 64;
  std::mt19937 random(kSeed + 2);
  std::vector<float> spread(kDim, 0.0f), mean(kDim, 2.5f);
  spread[3] = 1e-6f;
  spread[9] = 1.0f;
  spread[50] = 1e6f;
  const TurboQuant codec{.spec = Gauged(4, "block"), .head_dim = kDim};
  const auto rows = Rows(kDim, spread, mean, random);
  const auto read = RoundTrip(*codec.Keys(), 0, rows, kDim);
  double error = 0, square = 0;
  for (std::size_t t = 0; t < kTokens; ++t) {
    error += std::pow(double{read[t * kDim + 50]} - double{rows[t * kDim + 50]}, 2);
    square += std::pow(double{rows[t * kDim + 50]} - 2.5, 2);
  }
  EXPECT_LT(error, 0.1 * square);
}

TEST(GaugeTest, SinksDecideNothing) {
  constexpr std::size_t kDim = 64;
  std::mt19937 random(kSeed + 3);
  const std::vector<float> ones(kDim, 1.0f), zeros(kDim, 0.0f);
  auto rows = Rows(kDim, ones, zeros, random);
  const TurboQuant codec{.spec = Gauged(4, "block"), .head_dim = kDim};
  CodecConfig config = codec.Config();
  config.exact_rows = 4;
  const auto keys = MakeKeys(Registry::Builtin().Parse(codec.spec).value(), config).value();
  const auto calm = RoundTrip(*keys, 0, rows, kDim);
  for (std::size_t i = 0; i < 4 * kDim; ++i) rows[i] = i % kDim == 5 ? 5000.0f : 40.0f;
  const auto loud = RoundTrip(*keys, 0, rows, kDim);
  for (std::size_t i = 4 * kDim; i < rows.size(); ++i) ASSERT_EQ(calm[i], loud[i]);
  // Elsewhere than at the beginning of a sequence all rows count.
  AlignedBytes block(keys->block_bytes());
  EncodeBlock(*keys, 0, kTokens, RowsOf(rows, kDim), block.data()).value();
  std::vector<float> later(rows.size());
  DecodeBlock(*keys, 0, kTokens, block.data(), 0, kTokens, later.data(), kDim);
  EXPECT_NE(std::vector<float>(later.begin() + 4 * kDim, later.end()), std::vector<float>(loud.begin() + 4 * kDim, loud.end()));
}

/// A matrix turns the error into the metric of the queries: keys whose strong directions the queries do not look at.
TEST(GaugeTest, AMatrixPutsTheErrorWhereQueriesDoNotLook) {
  constexpr std::size_t kDim = 64;
  std::mt19937 random(kSeed + 4);
  // Diagonal for the test: keys of spread s, queries of spread 1 / s, whose gauge is 1 / s.
  std::vector<float> spread(kDim), gauge(kDim * kDim), inverse(kDim * kDim);
  for (std::size_t i = 0; i < kDim; ++i) {
    spread[i] = i % 2 == 0 ? 8.0f : 0.125f;
    gauge[i * kDim + i] = 1.0f / spread[i];
    inverse[i * kDim + i] = spread[i];
  }
  const std::vector<ExampleTensor> tensors{{"layers.0.keys.gauge", {1, kDim, kDim}, gauge},
                                           {"layers.0.keys.gauge_inverse", {1, kDim, kDim}, inverse}};
  const auto artifact = Artifact::Make(ArtifactImage(tensors)).value();
  const auto rows = Rows(kDim, spread, std::vector<float>(kDim, 5.0f), random);
  auto queries = NormalNumbers(8 * kDim, random);
  for (std::size_t i = 0; i < queries.size(); ++i) queries[i] /= spread[i % kDim];
  const auto error = [&](const char* kind) {
    const TurboQuant codec{.spec = Gauged(3, kind), .head_dim = kDim, .artifact = artifact.get()};
    const auto keys = codec.Keys();
    AlignedBytes block(keys->block_bytes());
    EncodeBlock(*keys, 0, 0, RowsOf(rows, kDim), block.data()).value();
    const auto logits = ScoreBlock(*keys, 0, queries, 8, block.data(), kTokens);
    double sum = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) {
      sum += std::pow(double{logits[i]} - Dot(&queries[i / kTokens * kDim], &rows[i % kTokens * kDim], kDim), 2);
    }
    return sum / static_cast<double>(logits.size());
  };
  // Scores are sums of kDim products of unit normals, each off by the code's relative error.
  const double declared = TurboQuant{.spec = Gauged(3, "none"), .head_dim = kDim}.Declared(Side::kKeys);
  EXPECT_LT(error("matrix"), 1.2 * declared * kDim);
  EXPECT_GT(error("mean"), 10 * error("matrix"));
}

/// What Score keeps of one block for the next changes no bit: blocks of unlike gains in any order, and of a codec around
/// another one.
TEST(GaugeTest, ScoresDoNotDependOnTheBlockBefore) {
  constexpr std::size_t kDim = 64, kBlocks = 4, kQueries = 5;
  for (const char* spec : {"turboquant_mse:bits=3", "gauge:kind=block,codes=(int8)", "gauge:kind=mean,codes=(gaussian_vq)",
                           "turboquant_tcq:bits=2,gauge=channels"}) {
    std::mt19937 random(kSeed + 5);
    const auto keys = TurboQuant{.spec = spec, .head_dim = kDim}.Keys();
    std::vector<AlignedBytes> blocks;
    std::vector<std::vector<float>> alone;
    const auto queries = NormalNumbers(kQueries * kDim, random);
    for (std::size_t b = 0; b < kBlocks; ++b) {
      std::vector<float> spread(kDim, 1.0f);
      if (b > 0) spread[7 * b] = 200.0f;  // block 0 has no gains
      blocks.emplace_back(keys->block_bytes());
      EncodeBlock(*keys, 0, 0, RowsOf(Rows(kDim, spread, Bias(kDim, 22.0f, random), random), kDim), blocks[b].data()).value();
      alone.push_back(ScoreBlock(*keys, 0, queries, kQueries, blocks[b].data(), kTokens));
    }
    AlignedBytes prepared(keys->needs(kQueries).prepared), scratch(keys->needs(kQueries).scratch);
    keys->Prepare({0, queries.data(), kDim, kQueries, prepared.data(), scratch.data()});
    for (const std::size_t b : {0u, 1u, 1u, 2u, 0u, 3u, 2u, 1u}) {
      std::vector<float> logits(kQueries * kTokens);
      keys->Score({.queries = queries.data(),
                   .query_stride = kDim,
                   .prepared = prepared.data(),
                   .n = kQueries,
                   .block = blocks[b].data(),
                   .logits = logits.data(),
                   .stride = kTokens,
                   .scratch = scratch.data()});
      EXPECT_EQ(logits, alone[b]) << spec << ", block " << b;
    }
  }
}

/// Codecs that read the queries themselves while they score get them in the codes' coordinates: scores are those of decoded
/// rows.
TEST(GaugeTest, InnerCodecsThatReadQueriesGetThoseOfTheGauge) {
  constexpr std::size_t kDim = 64, kQueries = 3;
  std::mt19937 random(kSeed + 6);
  std::vector<float> spread(kDim, 1.0f);
  spread[5] = spread[40] = 300.0f;
  const auto rows = Rows(kDim, spread, Bias(kDim, 22.0f, random), random);
  const auto queries = NormalNumbers(kQueries * kDim, random);
  const TurboQuant shape{.head_dim = kDim};
  const auto artifact = Artifact::Make(ArtifactImage(ExampleGauge(shape.Config()))).value();
  for (const char* kind : {"mean", "block", "channels", "matrix"}) {
    for (const char* codes : {"kivi:bits=8", "outlier:choice=block,hot=(f32),rest=(int8)", "gauge:kind=block,codes=(int8)"}) {
      const TurboQuant codec{
          .spec = "gauge:kind=" + std::string(kind) + ",codes=(" + codes + ")", .head_dim = kDim, .artifact = artifact.get()};
      const auto keys = codec.Keys();
      AlignedBytes block(keys->block_bytes());
      EncodeBlock(*keys, 0, 0, RowsOf(rows, kDim), block.data()).value();
      const auto decoded = RoundTrip(*keys, 0, rows, kDim);
      const auto logits = ScoreBlock(*keys, 0, queries, kQueries, block.data(), kTokens);
      for (std::size_t i = 0; i < logits.size(); ++i) {
        const float* query = &queries[i / kTokens * kDim];
        const float* row = &decoded[i % kTokens * kDim];
        // Queries are rounded to 15 bits at least, in coordinates that stretch them by a few.
        const double size = std::sqrt(Dot(query, query, kDim) * Dot(row, row, kDim));
        ASSERT_NEAR(logits[i], Dot(query, row, kDim), 1e-3 * size) << codec.spec;
      }
    }
  }
}

void ExpectRefused(const TurboQuant& codec, const std::string& what) {
  const auto keys = codec.TryKeys();
  ASSERT_FALSE(keys) << codec.spec;
  EXPECT_NE(keys.error().message.find(what), std::string::npos) << keys.error().message;
}

TEST(GaugeTest, WhatCannotWorkIsRefusedByName) {
  ExpectRefused({.spec = Spec(4, ",center=1,gauge=block")}, "center=1 and gauge=block");
  ExpectRefused({.spec = Gauged(4, "matrix")}, "layers.0.keys.gauge");
  const auto values = TurboQuant{.spec = Gauged(4, "block")}.TryValues();
  ASSERT_FALSE(values);
  EXPECT_NE(values.error().message.find("gauge=block is of keys alone"), std::string::npos) << values.error().message;

  constexpr std::size_t kDim = 8;
  const TurboQuant shape{.spec = Gauged(4, "matrix"), .head_dim = kDim};
  auto tensors = ExampleGauge(shape.Config());
  const auto with = [&](const std::vector<ExampleTensor>& made, const std::string& what) {
    const auto artifact = Artifact::Make(ArtifactImage(made)).value();
    TurboQuant codec = shape;
    codec.artifact = artifact.get();
    if (what.empty()) {
      EXPECT_TRUE(codec.TryKeys());
    } else {
      ExpectRefused(codec, what);
    }
  };
  with(tensors, "");
  auto crooked = tensors;
  crooked[0].values[1] += 0.1f;
  with(crooked, "layers.0.keys.gauge of KV head 0 is not symmetric");
  auto other = tensors;
  for (float& number : other[1].values) number *= 1.1f;
  with(other, "is not the inverse of");
}

}  // namespace
}  // namespace kvant::quantizers
