// The mathematics of spectral: the error and the slope of every direction against theory, what the scale makes exact, sizes,
// heads unlike each other, refusals.
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "quantizers/artifact.h"
#include "quantizers/codec.h"
#include "quantizers/registry.h"
#include "quantizers/spectral_head.h"
#include "quantizers/water_filling.h"
#include "tools/codec_calls.h"

namespace kvant::quantizers {
namespace {

constexpr std::size_t kTokens = 128;

std::vector<double> Normal(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  std::vector<double> x(n);
  for (double& v : x) v = normal(random);
  return x;
}

/// A layer of `heads` KV heads whose rows have deviation (i + 1)^-power along direction i of a random basis, about a mean.
struct Layer {
  std::uint32_t dim = 128, heads = 1;
  Side side = Side::kKeys;
  std::vector<float> mean, basis, deviation, signal, bits;
  std::unique_ptr<const Artifact> artifact;

  Layer(Side of, std::uint32_t dims, double power, double mean_norm = 3, std::uint32_t kv_heads = 1)
      : dim(dims), heads(kv_heads), side(of), mean(kv_heads * dims), basis(kv_heads * dims * dims), deviation(kv_heads * dims) {
    for (std::size_t h = 0; h < heads; ++h) {
      // Gram and Schmidt on normal rows.
      auto rows = Normal(dim * dim, 11 + h);
      for (std::size_t a = 0; a < dim; ++a) {
        for (std::size_t b = 0; b <= a; ++b) {
          double along = 0;
          for (std::size_t i = 0; i < dim; ++i) along += rows[a * dim + i] * rows[b * dim + i];
          for (std::size_t i = 0; i < dim; ++i) {
            if (b < a) rows[a * dim + i] -= along * rows[b * dim + i];
            if (b == a) rows[a * dim + i] /= std::sqrt(along);
          }
        }
      }
      for (std::size_t i = 0; i < dim * dim; ++i) basis[h * dim * dim + i] = static_cast<float>(rows[i]);
      const auto direction = Normal(dim, 5 + h);
      for (std::size_t i = 0; i < dim; ++i) {
        mean[h * dim + i] = static_cast<float>(mean_norm * direction[i] / std::sqrt(static_cast<double>(dim)));
        deviation[h * dim + i] = static_cast<float>(std::pow(static_cast<double>(i + 1), -power));
      }
    }
  }

  void MakeArtifact() {
    const std::string name = side == Side::kKeys ? "layers.0.keys." : "layers.0.values.";
    std::vector<ExampleTensor> tensors{{name + "mean", {heads, dim}, mean},
                                       {name + "basis", {heads, dim, dim}, basis},
                                       {name + "deviation", {heads, dim}, deviation}};
    if (!signal.empty()) tensors.push_back({name + "signal", {heads}, signal});
    if (!bits.empty()) tensors.push_back({name + "bits", {heads, dim}, bits});
    artifact = std::move(Artifact::Make(ArtifactImage(tensors))).value();
  }

  [[nodiscard]] CodecConfig Config() const {
    return {.side = side,
            .kv_heads = heads,
            .head_end = heads,
            .head_dim = dim,
            .block_tokens = kTokens,
            .model = "m",
            .artifact = artifact.get()};
  }
  [[nodiscard]] std::unique_ptr<BlockCodec> Make(const std::string& spec) {
    if (artifact == nullptr) MakeArtifact();
    const ParsedSpec parsed = Registry::Builtin().Parse(spec).value();
    if (side == Side::kKeys) return std::move(MakeKeys(parsed, Config())).value();
    return std::move(MakeValues(parsed, Config())).value();
  }

  /// A row's deviation from the mean, along each direction.
  [[nodiscard]] std::vector<double> Coordinates(const float* row, std::size_t head = 0) const {
    std::vector<double> y(dim);
    for (std::size_t a = 0; a < dim; ++a) {
      for (std::size_t i = 0; i < dim; ++i) {
        y[a] += (static_cast<double>(row[i]) - static_cast<double>(mean[head * dim + i])) *
                static_cast<double>(basis[(head * dim + a) * dim + i]);
      }
    }
    return y;
  }
  /// Rows of the layer's law.
  [[nodiscard]] std::vector<float> Rows(std::uint64_t seed, std::size_t head = 0) const {
    const auto numbers = Normal(kTokens * dim, seed);
    std::vector<float> rows(kTokens * dim);
    for (std::size_t t = 0; t < kTokens; ++t) {
      for (std::size_t i = 0; i < dim; ++i) {
        double x = mean[head * dim + i];
        for (std::size_t a = 0; a < dim; ++a)
          x += numbers[t * dim + a] * static_cast<double>(deviation[head * dim + a]) *
               static_cast<double>(basis[(head * dim + a) * dim + i]);
        rows[t * dim + i] = static_cast<float>(x);
      }
    }
    return rows;
  }
};

std::vector<float> Decoded(const BlockCodec& codec, const std::vector<float>& rows, std::size_t dim, std::size_t head = 0) {
  tools::AlignedBytes block(codec.block_bytes());
  EXPECT_TRUE(tools::EncodeBlock(codec, head, 0, {rows.data(), ElementType::kF32, kTokens, dim, dim}, block.data()));
  std::vector<float> back(rows.size());
  tools::DecodeBlock(codec, head, 0, block.data(), 0, kTokens, back.data(), dim);
  return back;
}

/// Of each direction: mean square, that of what is left, and the mean product of a number with what it reads back as.
struct Directions {
  std::vector<double> square, left, product;
  double worst_scale = 0;  ///< how far <y, y'> of a row is from |y|^2, of the directions with codes
};

Directions Measure(Layer& layer, const BlockCodec& codec, std::size_t coded, int blocks) {
  Directions found{std::vector<double>(layer.dim), std::vector<double>(layer.dim), std::vector<double>(layer.dim)};
  for (int b = 0; b < blocks; ++b) {
    const auto rows = layer.Rows(100 + static_cast<std::uint64_t>(b));
    const auto back = Decoded(codec, rows, layer.dim);
    for (std::size_t t = 0; t < kTokens; ++t) {
      const auto x = layer.Coordinates(&rows[t * layer.dim]), y = layer.Coordinates(&back[t * layer.dim]);
      double square = 0, product = 0;
      for (std::size_t a = 0; a < layer.dim; ++a) {
        found.square[a] += x[a] * x[a];
        found.left[a] += (x[a] - y[a]) * (x[a] - y[a]);
        found.product[a] += x[a] * y[a];
        if (a < coded) square += x[a] * x[a], product += x[a] * y[a];
      }
      found.worst_scale = std::max(found.worst_scale, std::fabs(product / square - 1));
    }
  }
  return found;
}

double Sum(const std::vector<double>& x, std::size_t begin, std::size_t end) {
  double sum = 0;
  for (std::size_t i = begin; i < end; ++i) sum += x[i];
  return sum;
}

TEST(SpectralTest, EveryGroupHasTheErrorAndTheSlopeOfItsBits) {
  // 4 bits for 32 directions, 2 for 64, none for the last 32.
  for (const Side side : {Side::kKeys, Side::kValues}) {
    Layer layer(side, 128, 0);
    for (std::size_t i = 0; i < 128; ++i) layer.deviation[i] = i < 32 ? 2.0F : i < 96 ? 1.0F : .5F;
    layer.bits.assign(128, 0.0F);
    std::fill_n(layer.bits.begin(), 96, 2.0F);
    std::fill_n(layer.bits.begin(), 32, 4.0F);
    const auto codec = layer.Make("spectral:bits=map");
    const Directions found = Measure(layer, *codec, 96, 8);
    const struct { std::size_t begin, end, bits; } groups[] = {{0, 32, 4}, {32, 96, 2}, {96, 128, 0}};
    for (const auto& group : groups) {
      const double error = LloydErrors()[group.bits], square = Sum(found.square, group.begin, group.end);
      const bool keys = side == Side::kKeys && group.bits > 0;
      // The row's scale takes away the error along the row, and one scale knows the row's size: as of a row of 64 numbers (the
      // square of the summed variances over the sum of their squares), whose codes lose 6 % less.
      EXPECT_NEAR(Sum(found.left, group.begin, group.end) / square, keys ? error / (1 - error) : error, .08 * error + 1e-4)
          << group.bits;
      EXPECT_NEAR(Sum(found.product, group.begin, group.end) / square, keys ? 1 : 1 - error, .01) << group.bits;
    }
    if (side == Side::kKeys) {
      EXPECT_LT(found.worst_scale, 1e-3);  // the scale's 11 bits
    }
  }
}

TEST(SpectralTest, SignalKeepsItsPrecisionAndNoiseItsOwn) {
  Layer layer(Side::kKeys, 128, 0);
  for (std::size_t i = 0; i < 16; ++i) layer.deviation[i] = 3.0F;
  layer.signal = {16.0F};
  const Directions found = Measure(layer, *layer.Make("spectral:signal=4,noise=1"), 128, 8);
  const double noise = LloydErrors()[1];
  EXPECT_NEAR(Sum(found.left, 0, 16) / Sum(found.square, 0, 16), LloydErrors()[4], .15 * LloydErrors()[4]);
  EXPECT_NEAR(Sum(found.left, 16, 128) / Sum(found.square, 16, 128), noise / (1 - noise), .04);
  EXPECT_NEAR(Sum(found.product, 16, 128) / Sum(found.square, 16, 128), 1, .02);  // .64 without the factor
}

TEST(SpectralTest, FilledBitsBeatOneWidthByTheGainOfTheory) {
  for (const double power : {.5, .75, 1.0}) {  // variances i^-1, i^-1.5, i^-2
    Layer layer(Side::kValues, 128, power, 0);
    std::vector<double> variances(128);
    for (std::size_t i = 0; i < 128; ++i) variances[i] = std::pow(static_cast<double>(i + 1), -2 * power);
    const std::uint32_t allowed[] = {0, 1, 2, 3, 4, 8};
    const auto bits = FillBits({.weights = variances, .errors = LloydErrors(), .allowed = allowed, .bits = 256, .run = 8});
    layer.bits.assign(bits.begin(), bits.end());
    double expected = 0;
    for (std::size_t i = 0; i < 128; ++i) expected += variances[i] * LloydErrors()[bits[i]] / Sum(variances, 0, 128);
    const Directions filled = Measure(layer, *layer.Make("spectral:bits=map"), 128, 8);
    const Directions uniform = Measure(layer, *layer.Make("turboquant_mse:bits=2"), 128, 8);
    const double error = Sum(filled.left, 0, 128) / Sum(filled.square, 0, 128);
    EXPECT_NEAR(error, expected, .08 * expected) << power;
    EXPECT_LT(error, Sum(uniform.left, 0, 128) / Sum(uniform.square, 0, 128) / (power < .6 ? 1.5 : 3)) << power;
  }
}

TEST(SpectralTest, LargeMeansCostNothingAndNoRowIsMadeWorseThanNothing) {
  for (const double norm : {0.0, 22.0, 605.0, 921.0}) {
    Layer layer(Side::kValues, 128, .5, norm);
    layer.signal = {32.0F};
    const auto codec = layer.Make("spectral:signal=4,noise=2");
    const Directions found = Measure(layer, *codec, 128, 2);
    const double expected = (Sum(found.square, 0, 32) * LloydErrors()[4] + Sum(found.square, 32, 128) * LloydErrors()[2]) /
                            Sum(found.square, 0, 128);
    EXPECT_NEAR(Sum(found.left, 0, 128) / Sum(found.square, 0, 128), expected, .1 * expected) << norm;
    // Constant rows, rows of zeros, rows with an outlier: with least squares what is left is at most what was there.
    std::vector<float> hard(kTokens * 128, 0.0F);
    for (std::size_t t = 0; t < kTokens; ++t) {
      for (std::size_t i = 0; i < 128; ++i) hard[t * 128 + i] = t % 3 == 0 ? 0.0F : t % 3 == 1 ? 5.0F : i == t ? 100.0F : 0.01F;
    }
    const auto back = Decoded(*codec, hard, 128);
    for (std::size_t t = 0; t < kTokens; ++t) {
      const auto x = layer.Coordinates(&hard[t * 128]), y = layer.Coordinates(&back[t * 128]);
      double square = 0, left = 0;
      for (std::size_t a = 0; a < 128; ++a) square += x[a] * x[a], left += (x[a] - y[a]) * (x[a] - y[a]);
      EXPECT_LE(left, 1.0001 * square) << norm << " row " << t;
    }
  }
}

TEST(SpectralTest, TakesExactlyItsBits) {
  for (const std::uint32_t dim : {64U, 80U, 96U, 128U, 256U}) {
    Layer layer(Side::kKeys, dim, .5);
    for (const std::size_t signal : {1U, 8U, 20U, 50U}) {
      layer.signal = {static_cast<float>(signal)};
      layer.artifact = nullptr;
      const std::size_t whole = std::max<std::size_t>(8, (signal + 4) / 8 * 8);
      for (const auto& [strong, weak] : {std::pair<std::size_t, std::size_t>{4, 1}, {3, 2}, {8, 0}}) {
        const auto codec = layer.Make("spectral:signal=" + std::to_string(strong) + ",noise=" + std::to_string(weak));
        EXPECT_EQ(8 * codec->block_bytes(), kTokens * (strong * whole + weak * (dim - whole) + 16)) << dim << " " << signal;
      }
    }
  }
}

TEST(SpectralTest, HeadsMayHaveDifferentNumbersOfCodes) {
  Layer layer(Side::kKeys, 64, .5, 2, 2);
  layer.signal = {8.0F, 48.0F};
  const auto codec = layer.Make("spectral");
  EXPECT_EQ(8 * codec->block_bytes(), kTokens * (4 * 48 + 16 + 16));
  for (const std::size_t head : {0U, 1U}) {
    const auto rows = layer.Rows(3, head), back = Decoded(*codec, rows, 64, head);
    double square = 0, left = 0;
    for (std::size_t t = 0; t < kTokens; ++t) {
      const auto x = layer.Coordinates(&rows[t * 64], head), y = layer.Coordinates(&back[t * 64], head);
      for (std::size_t a = 0; a < 64; ++a) square += x[a] * x[a], left += (x[a] - y[a]) * (x[a] - y[a]);
    }
    EXPECT_LT(left / square, head == 0 ? .3 : .06) << head;
  }
}

TEST(SpectralTest, SaysWhatItLacks) {
  const ParsedSpec spec = Registry::Builtin().Parse("spectral").value(),
                   by_map = Registry::Builtin().Parse("spectral:bits=map").value();
  const auto refused = [](const ParsedSpec& parsed, const CodecConfig& config, const std::string& what) {
    const auto made = MakeKeys(parsed, config);
    ASSERT_FALSE(made) << what;
    EXPECT_NE(made.error().message.find(what), std::string::npos) << made.error().message;
  };
  Layer layer(Side::kKeys, 64, .5);
  refused(spec, layer.Config(), "needs the tensor layers.0.keys.mean [1, 64]");
  layer.MakeArtifact();
  refused(by_map, layer.Config(), "layers.0.keys.bits");
  layer.bits.assign(64, 5.0F);
  layer.MakeArtifact();
  refused(by_map, layer.Config(), "no codes of 5");
  layer.bits.assign(64, 0.0F);
  layer.MakeArtifact();
  refused(by_map, layer.Config(), "no direction of KV head 0 has bits");
  layer.basis[5] += .1F;
  layer.MakeArtifact();
  refused(spec, layer.Config(), "layers.0.keys.basis of KV head 0 has no orthonormal rows");
  layer.deviation[3] = -1.0F;
  layer.basis[5] -= .1F;
  layer.MakeArtifact();
  refused(spec, layer.Config(), "layers.0.keys.deviation of KV head 0");
}

}  // namespace
}  // namespace kvant::quantizers
