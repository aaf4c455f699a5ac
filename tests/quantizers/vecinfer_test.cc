// vecinfer: the error of its words, smoothing, refusals.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/rotation/reference/hadamard.h"
#include "kernels/vector/codebook.h"
#include "quantizers/artifact.h"
#include "quantizers/rotation.h"
#include "tests/quantizers/turboquant_mse_fixture.h"

namespace kvant::quantizers {
namespace {

using kernels::GaussianCodebook;
using kernels::kVectorDims;
using kernels::kVectorWords;

constexpr std::uint32_t kSeed = 78;
constexpr double kGaussianError = 0.0967;

/// An artifact of vecinfer for one head: the Gaussian words, and factors.
std::unique_ptr<const Artifact> ArtifactOf(const std::vector<float>& factors, float words = 1.0f) {
  std::vector<float> codebook(kVectorWords * kVectorDims);
  for (std::size_t i = 0; i < codebook.size(); ++i) {
    codebook[i] =
        words * static_cast<float>(GaussianCodebook().numbers[i % kVectorDims][i / kVectorDims]) / GaussianCodebook().unit;
  }
  const std::vector<ExampleTensor> tensors = {{"layers.0.keys.codebook", {1, kVectorWords, kVectorDims}, codebook},
                                              {"layers.0.values.codebook", {1, kVectorWords, kVectorDims}, codebook},
                                              {"layers.0.keys.smooth", {1, factors.size()}, factors}};
  return std::move(Artifact::Make(ArtifactImage(tensors))).value();
}

TEST(VecInferTest, WithFactorsOfOneItHasTheErrorOfGaussianVq) {
  constexpr std::uint32_t kDim = 128;
  std::mt19937 random(kSeed);
  const auto artifact = ArtifactOf(std::vector<float>(kDim, 1.0f));
  const TurboQuant codec{.spec = "vecinfer", .head_dim = kDim, .block_tokens = 1024, .artifact = artifact.get()};
  const auto rows = NormalNumbers(1024 * kDim, random);
  const double least_squares = kGaussianError * (1 - 2.2 / kDim);
  EXPECT_NEAR(RelativeError(rows, RoundTrip(*codec.Values(), 0, rows, kDim)), least_squares, 0.015 * least_squares);
  EXPECT_NEAR(RelativeError(rows, RoundTrip(*codec.Keys(), 0, rows, kDim)), least_squares / (1 - least_squares),
              0.015 * least_squares);
  EXPECT_NEAR(codec.Declared(Side::kValues), least_squares, 0.01 * least_squares);
}

TEST(VecInferTest, ScoresAreDotProductsWithDecodedKeysWhateverTheFactors) {  // T13
  constexpr std::uint32_t kDim = 128;
  constexpr std::size_t kQueries = 5;
  std::mt19937 random(kSeed);
  auto factors = NormalNumbers(kDim, random);
  for (float& factor : factors) factor = std::exp(factor);
  const auto artifact = ArtifactOf(factors);
  const TurboQuant codec{.spec = "vecinfer", .head_dim = kDim, .artifact = artifact.get()};
  const auto keys = codec.Keys();
  auto rows = NormalNumbers(128 * kDim, random);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] *= factors[i % kDim] * factors[i % kDim];
  const auto queries = NormalNumbers(kQueries * kDim, random);
  AlignedBytes block(keys->block_bytes());
  EncodeBlock(*keys, 0, 0, RowsOf(rows, kDim), block.data()).value();
  const auto decoded = RoundTrip(*keys, 0, rows, kDim);
  const auto logits = ScoreBlock(*keys, 0, queries, kQueries, block.data(), 128);
  for (std::size_t i = 0; i < kQueries; ++i) {
    // Each of the smoothed query's rotated numbers is off by at most half a step; a rotation's largest number is below 5
    // standard deviations here.
    double query2 = 0.0;
    for (std::size_t d = 0; d < kDim; ++d) query2 += std::pow(static_cast<double>(queries[i * kDim + d]) * factors[d], 2);
    const double step = 5.0 * std::sqrt(query2 / kDim) / 127;
    for (std::size_t t = 0; t < 128; ++t) {
      double norm2 = 0.0;
      for (std::size_t d = 0; d < kDim; ++d) norm2 += std::pow(static_cast<double>(decoded[t * kDim + d]) / factors[d], 2);
      const double expected = Dot(&queries[i * kDim], &decoded[t * kDim], kDim);
      // Rounding errors are independent: four of their standard deviations.
      ASSERT_NEAR(logits[i * 128 + t], expected,
                  4 * step / std::sqrt(12.0) * std::sqrt(norm2) + 1e-5 * std::sqrt(query2 * norm2))
          << i << " " << t << " seed " << kSeed;
    }
  }
}

TEST(VecInferTest, SmoothingAndRotationLeaveProductsAsTheyAre) {  // T13
  constexpr std::uint32_t kDim = 96;
  std::mt19937 random(kSeed);
  auto factors = NormalNumbers(kDim, random);
  for (float& factor : factors) factor = std::exp(2 * factor);
  const Rotation rotation(kDim, RotationRounds(kDim), kSeed);
  const double gain = rotation.shape().gain(rotation.rounds());
  for (int repeat = 0; repeat < 20; ++repeat) {
    auto key = NormalNumbers(kDim, random), query = NormalNumbers(kDim, random);
    const double expected = Dot(key.data(), query.data(), kDim);
    for (std::size_t d = 0; d < kDim; ++d) key[d] /= factors[d], query[d] *= factors[d];
    const double size = std::sqrt(Dot(key.data(), key.data(), kDim) * Dot(query.data(), query.data(), kDim));
    kernels::reference::Hadamard(rotation.shape(), rotation.rounds(), rotation.signs(), key.data());
    kernels::reference::Hadamard(rotation.shape(), rotation.rounds(), rotation.signs(), query.data());
    EXPECT_NEAR(Dot(key.data(), query.data(), kDim) / (gain * gain), expected, 1e-5 * size) << "seed " << kSeed;
  }
}

TEST(VecInferTest, SmoothingSparesQueriesFromOutlierChannels) {
  constexpr std::uint32_t kDim = 128;
  std::mt19937 random(kSeed);
  auto rows = NormalNumbers(512 * kDim, random);
  std::vector<float> factors(kDim, 1.0f);
  for (const std::size_t channel : {3u, 70u, 101u}) {
    for (std::size_t t = 0; t < 512; ++t) rows[t * kDim + channel] *= 40.0f;
    factors[channel] = std::sqrt(40.0f);
  }
  const auto queries = NormalNumbers(64 * kDim, random);
  double noise[2] = {0.0, 0.0};
  for (const bool smooth : {false, true}) {
    const auto artifact = ArtifactOf(smooth ? factors : std::vector<float>(kDim, 1.0f));
    const TurboQuant codec{.spec = "vecinfer", .head_dim = kDim, .block_tokens = 512, .artifact = artifact.get()};
    const auto back = RoundTrip(*codec.Keys(), 0, rows, kDim);
    for (std::size_t t = 0; t < 512; ++t) {
      const float *row = &rows[t * kDim], *read = &back[t * kDim], *query = &queries[t % 64 * kDim];
      noise[smooth ? 1 : 0] += std::pow(Dot(query, row, kDim) - Dot(query, read, kDim), 2);
    }
  }
  // Errors grow with the norm: by sum f^2 sum (x / f)^2 instead of dim * sum x^2, in the mean.
  const double expected = (125 + 3 * 40.0) * (125 + 3 * 40.0) / (kDim * (125 + 3 * 1600.0));
  EXPECT_NEAR(noise[1] / noise[0], expected, 0.4 * expected);
}

TEST(VecInferTest, RefusesWithoutItsTensorsAndNamesThem) {
  constexpr std::uint32_t kDim = 64;
  const auto refused = [&](const Artifact* artifact, Side side, const std::string& text, std::uint32_t dim = 64) {
    const TurboQuant codec{.spec = "vecinfer", .head_dim = dim, .artifact = artifact};
    const std::string message = side == Side::kKeys ? codec.TryKeys().error().message : codec.TryValues().error().message;
    EXPECT_NE(message.find(text), std::string::npos) << message;
  };
  refused(nullptr, Side::kKeys, "layers.0.keys.codebook [1, 256, 4]");
  refused(nullptr, Side::kValues, "layers.0.values.codebook [1, 256, 4]");
  const auto other = std::move(Artifact::Make(ArtifactImage(std::vector<ExampleTensor>{{"a", {1}, {1.0f}}}))).value();
  refused(other.get(), Side::kKeys, "layers.0.keys.codebook [1, 256, 4]");
  const auto narrow = ArtifactOf(std::vector<float>(kDim / 2, 1.0f));
  refused(narrow.get(), Side::kKeys, "layers.0.keys.smooth [1, 64]");
  auto factors = std::vector<float>(kDim, 1.0f);
  factors[5] = -1.0f;
  const auto negative = ArtifactOf(factors);
  refused(negative.get(), Side::kKeys, "channel 5");
  EXPECT_TRUE((TurboQuant{.spec = "vecinfer", .head_dim = kDim, .artifact = negative.get()}.TryValues()));
  for (const float words : {0.0f, 0.01f, 100.0f}) {
    const auto strange = ArtifactOf(std::vector<float>(kDim, 1.0f), words);
    refused(strange.get(), Side::kKeys, "root mean square is 1");
  }
  refused(narrow.get(), Side::kKeys, "head_dim 48", 48);
}

}  // namespace
}  // namespace kvant::quantizers
