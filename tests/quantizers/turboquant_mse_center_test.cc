// Centring: a mean added to every row costs nothing once the artifact names it.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "tests/quantizers/turboquant_mse_fixture.h"

namespace kvant::quantizers {
namespace {

constexpr std::uint32_t kSeed = 51;
constexpr std::size_t kDim = 64;
constexpr std::size_t kTokens = 128;

/// A safetensors image with one f32 tensor [rows, cols].
std::vector<std::byte> Image(const std::string& name, std::size_t rows, std::size_t cols, const std::vector<float>& values) {
  const std::string header = "{\"" + name + "\":{\"dtype\":\"F32\",\"shape\":[" + std::to_string(rows) + "," +
                             std::to_string(cols) + "],\"data_offsets\":[0," + std::to_string(values.size() * 4) + "]}}";
  std::vector<std::byte> image;
  for (int i = 0; i < 8; ++i) image.push_back(static_cast<std::byte>(header.size() >> (8 * i)));
  for (const char c : header) image.push_back(static_cast<std::byte>(c));
  for (const float value : values) {
    for (int i = 0; i < 4; ++i) image.push_back(static_cast<std::byte>(std::bit_cast<std::uint32_t>(value) >> (8 * i)));
  }
  return image;
}

/// Numbers on a grid of 2^-8, so that adding and subtracting a mean below 2^12 is exact.
std::vector<float> GridNumbers(std::size_t n, float spread, std::mt19937& random) {
  auto values = NormalNumbers(n, random);
  for (auto& value : values) value = std::round(value * spread * 256.0f) / 256.0f;
  return values;
}

std::vector<float> Plus(std::vector<float> rows, const std::vector<float>& mean) {
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] += mean[i % mean.size()];
  return rows;
}

/// softmax(query . keys / sqrt(dim)) over coded keys times `values` [tokens, dim].
std::vector<double> Attend(const KeyCodec& keys, std::size_t head, const std::vector<float>& rows, std::vector<float> query,
                           const std::vector<float>& values) {
  for (auto& q : query) q /= std::sqrt(static_cast<float>(kDim));
  AlignedBytes block(keys.block_bytes());
  EncodeBlock(keys, head, 0, RowsOf(rows, kDim), block.data()).value();
  auto logits = ScoreBlock(keys, head, query, 1, block.data(), kTokens);
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  std::vector<double> out(kDim);
  for (std::size_t t = 0; t < kTokens; ++t) {
    const double p = std::exp(logits[t] - top);
    sum += p;
    for (std::size_t d = 0; d < kDim; ++d) out[d] += p * values[t * kDim + d];
  }
  for (auto& o : out) o /= sum;
  return out;
}

double LargestDifference(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::fabs(a[i] - b[i]));
  return largest;
}

TEST(TurboQuantMseCenterTest, AMeanOnEveryKeyLeavesAttentionAlone) {
  std::mt19937 random(kSeed);
  for (const float ratio : {1.0f, 30.0f, 1000.0f}) {
    const auto mean = GridNumbers(2 * kDim, ratio, random);  // of two heads
    const std::vector<float> of_head(mean.begin() + kDim, mean.end());
    const auto artifact = std::move(Artifact::Make(Image("layers.3.keys.mean", 2, kDim, mean))).value();
    const std::vector<float> zeros(2 * kDim);
    const auto nothing = std::move(Artifact::Make(Image("layers.3.keys.mean", 2, kDim, zeros))).value();
    TurboQuant codec{
        .spec = TurboSpec(4, ",center=1"), .head_dim = kDim, .kv_heads = 2, .layer = 3, .artifact = artifact.get()};
    const auto centred = codec.Keys();
    codec.artifact = nothing.get();
    const auto plain = codec.Keys();
    const auto rows = GridNumbers(kTokens * kDim, 1.0f, random);
    const auto query = NormalNumbers(kDim, random);
    const auto values = NormalNumbers(kTokens * kDim, random);
    const auto expected = Attend(*plain, 1, rows, query, values);
    EXPECT_LT(LargestDifference(Attend(*centred, 1, Plus(rows, of_head), query, values), expected), 1e-5)
        << ratio << " seed " << kSeed;
    if (ratio > 1.0f) {
      // Without centring the mean's share of the error ruins the result: the test can tell.
      EXPECT_GT(LargestDifference(Attend(*plain, 1, Plus(rows, of_head), query, values), expected), 0.05)
          << ratio << " seed " << kSeed;
    }
  }
}

TEST(TurboQuantMseCenterTest, RawRowsAndCodesAreScoredOnTheSameScale) {
  // Scores include <query, mean>: they estimate the dot product with the row itself.
  std::mt19937 random(kSeed);
  const auto mean = GridNumbers(kDim, 30.0f, random);
  const auto artifact = std::move(Artifact::Make(Image("layers.0.keys.mean", 1, kDim, mean))).value();
  const TurboQuant codec{.spec = TurboSpec(8, ",center=1"), .head_dim = kDim, .artifact = artifact.get()};
  const auto keys = codec.Keys();
  const auto rows = Plus(GridNumbers(kTokens * kDim, 1.0f, random), mean);
  const auto query = NormalNumbers(kDim, random);
  AlignedBytes block(keys->block_bytes());
  ASSERT_TRUE(EncodeBlock(*keys, 0, 0, RowsOf(rows, kDim), block.data()));
  auto logits = ScoreBlock(*keys, 0, query, 1, block.data(), kTokens);
  // Noise of 8 bits: sqrt(4e-5) * |query| * |row - mean| / sqrt(dim), about 0.05; six deviations.
  for (std::size_t t = 0; t < kTokens; ++t)
    EXPECT_NEAR(logits[t], Dot(query.data(), &rows[t * kDim], kDim), 0.35) << "seed " << kSeed;
}

TEST(TurboQuantMseCenterTest, ValuesGetTheirMeanBackByTheWeightsSum) {
  std::mt19937 random(kSeed);
  const auto mean = GridNumbers(kDim, 20.0f, random);
  const auto artifact = std::move(Artifact::Make(Image("layers.0.values.mean", 1, kDim, mean))).value();
  const TurboQuant codec{.spec = TurboSpec(8, ",center=1"), .head_dim = kDim, .artifact = artifact.get()};
  const auto values = codec.Values();
  const auto rows = Plus(GridNumbers(kTokens * kDim, 1.0f, random), mean);
  EXPECT_LT(RelativeError(rows, RoundTrip(*values, 0, rows, kDim)),
            4e-5 / 200);  // of the spread's energy, a 400th of the whole
  AlignedBytes block(values->block_bytes());
  ASSERT_TRUE(EncodeBlock(*values, 0, 0, RowsOf(rows, kDim), block.data()));
  std::vector<float> weights(kTokens);
  float sum = 0.0f;
  for (auto& weight : weights) sum += weight = static_cast<float>(random() % 100) / 100.0f;
  const auto out = SumBlock(*values, 0, weights, 1, block.data(), &sum, kDim);
  for (std::size_t d = 0; d < kDim; ++d) {
    double exact = 0.0;
    for (std::size_t t = 0; t < kTokens; ++t) exact += static_cast<double>(weights[t]) * rows[t * kDim + d];
    EXPECT_NEAR(out[d], exact, 0.3) << "seed "
                                    << kSeed;  // sqrt(4e-5 * sum of squared weights) = 0.04; float of a sum near 1300
  }
}

TEST(TurboQuantMseCenterTest, RefusesAPlanWithoutTheMeans) {
  const TurboQuant none{.spec = TurboSpec(4, ",center=1"), .head_dim = kDim, .layer = 7};
  EXPECT_EQ(none.TryKeys().error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(none.TryKeys().error().message.find("no artifact"), std::string::npos);
  const auto artifact = std::move(Artifact::Make(Image("layers.7.keys.mean", 1, kDim, std::vector<float>(kDim)))).value();
  TurboQuant codec = none;
  codec.artifact = artifact.get();
  EXPECT_TRUE(codec.TryKeys());
  EXPECT_NE(codec.TryValues().error().message.find("layers.7.values.mean"), std::string::npos)
      << codec.TryValues().error().message;
  codec.kv_heads = 2;
  EXPECT_FALSE(codec.TryKeys());
}

}  // namespace
}  // namespace kvant::quantizers
