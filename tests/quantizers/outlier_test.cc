// outlier: which channels are chosen, what that saves, what is stored and what is refused.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "quantizers/artifact.h"
#include "quantizers/channel_split.h"
#include "quantizers/registry.h"
#include "tests/quantizers/attention_case.h"
#include "tests/quantizers/conformance.h"
#include "tests/quantizers/toy_codecs.h"
#include "tests/quantizers/turboquant_mse_fixture.h"

namespace kvant::quantizers {
namespace {

constexpr std::uint32_t kSeed = 93;
constexpr std::uint32_t kTokens = 128;
constexpr std::size_t kDim = 128;
constexpr std::size_t kOutliers[] = {3, 17, 40, 41, 64, 90, 111, 127};

Registry WithToys() {
  Registry registry = Registry::Builtin();
  for (const Codec* toy : {&test::kToyCodebook, &test::kToyPreRope, &test::kToySigns, &test::kToyPlanes}) {
    EXPECT_TRUE(registry.Add(*toy));
  }
  return registry;
}

Result<std::unique_ptr<KeyCodec>> TryKeys(const Registry& registry, const std::string& spec, std::uint32_t dim = kDim,
                                          const Artifact* artifact = nullptr, std::uint32_t heads = 1) {
  const CodecConfig config{.layer = 2,
                           .kv_heads = heads,
                           .head_end = heads,
                           .head_dim = dim,
                           .block_tokens = kTokens,
                           .model = "test",
                           .rope = {RopePairing::kHalfSplit, 10000.0, 0},
                           .artifact = artifact,
                           .registry = &registry};
  return MakeKeys(registry.Parse(spec).value(), config);
}

std::unique_ptr<KeyCodec> Keys(const std::string& spec, std::uint32_t dim = kDim) {
  return std::move(TryKeys(Registry::Builtin(), spec, dim)).value();
}

std::vector<float> RowsWithOutliers(std::mt19937& random, float factor) {
  auto rows = NormalNumbers(kTokens * kDim, random);
  for (std::size_t t = 0; t < kTokens; ++t) {
    for (const std::size_t d : kOutliers) rows[t * kDim + d] *= factor;
  }
  return rows;
}

TEST(OutlierTest, ABlockStoresItsStrongestChannelsInOrder) {
  std::mt19937 random(kSeed);
  const auto keys = Keys("outlier:choice=block");
  AlignedBytes block(keys->block_bytes());
  ASSERT_TRUE(EncodeBlock(*keys, 0, 0, RowsOf(RowsWithOutliers(random, 30.0f), kDim), block.data()));
  const std::byte* stored = block.data() + keys->block_bytes() - 8;
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(std::to_integer<std::size_t>(stored[i]), kOutliers[i]);
}

TEST(OutlierTest, OfEqualChannelsTheLowerIsStronger) {
  const std::vector<float> energies = {1, 5, 5, 5, 2, 5, std::nanf(""), 0};
  const auto split = ChannelSplit::Largest(energies.data(), 8, 3);
  EXPECT_EQ(split.channel(0), 1u);
  EXPECT_EQ(split.channel(1), 2u);
  EXPECT_EQ(split.channel(2), 3u);
  EXPECT_EQ(split.channel(3), 0u);  // the others follow in order
  EXPECT_EQ(split.channel(7), 7u);
  const std::vector<float> zeros(16, 0.0f);
  EXPECT_EQ(ChannelSplit::Largest(zeros.data(), 16, 8).channel(7), 7u);
}

TEST(OutlierTest, OrdinaryChannelsHaveTheErrorOfRowsWithoutOutliers) {
  std::mt19937 random(kSeed + 1);
  const auto split = Keys("outlier:rest=(turboquant_mse:bits=2,scale=least_squares,gauge=none)");
  const auto plain = Keys("turboquant_mse:bits=2,scale=least_squares,gauge=none");
  const auto rest = Keys("turboquant_mse:bits=2,scale=least_squares,gauge=none", kDim - 8);
  double of_split = 0, of_plain = 0, energy = 0;
  for (int repeat = 0; repeat < 20; ++repeat) {
    const auto rows = RowsWithOutliers(random, 30.0f);
    const auto a = RoundTrip(*split, 0, rows, kDim), b = RoundTrip(*plain, 0, rows, kDim);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (std::find(std::begin(kOutliers), std::end(kOutliers), i % kDim) != std::end(kOutliers)) continue;
      of_split += std::pow(static_cast<double>(rows[i]) - a[i], 2);
      of_plain += std::pow(static_cast<double>(rows[i]) - b[i], 2);
      energy += std::pow(static_cast<double>(rows[i]), 2);
    }
  }
  const double declared = *rest->expected_error(1);
  EXPECT_NEAR(of_split / energy, declared, 0.03 * declared);
  EXPECT_GT(of_plain / energy, 20 * declared);  // one norm for all: the outliers' errors are spread over everything
}

TEST(OutlierTest, ChannelsOfEveryHeadCanBeCalibrated) {
  std::vector<ExampleTensor> tensors = {{"layers.2.keys.outliers", {2, kDim}, std::vector<float>(2 * kDim, 1.0f)}};
  for (std::size_t i = 0; i < 8; ++i) {
    tensors[0].values[kOutliers[i]] = 9.0f;
    tensors[0].values[kDim + 8 + i] = 9.0f;
  }
  const auto artifact = std::move(Artifact::Make(ArtifactImage(tensors))).value();
  const Registry registry = Registry::Builtin();
  const auto keys = std::move(TryKeys(registry, "outlier:hot=(f32)", kDim, artifact.get(), 2)).value();
  const auto chosen = Keys("outlier:hot=(f32),choice=block");
  EXPECT_EQ(keys->block_bytes() + 8, chosen->block_bytes());  // no channels in the block
  std::mt19937 random(kSeed + 2);
  const auto rows = NormalNumbers(kTokens * kDim, random);
  for (const std::size_t head : {0, 1}) {
    const auto decoded = RoundTrip(*keys, head, rows, kDim);
    for (std::size_t d = 0; d < kDim; ++d) {
      const bool hot =
          head == 0 ? std::find(std::begin(kOutliers), std::end(kOutliers), d) != std::end(kOutliers) : d >= 8 && d < 16;
      EXPECT_EQ(decoded[d] == rows[d], hot) << head << " " << d;
    }
  }
}

TEST(OutlierTest, BytesAreTheSumOfBothPartsAndTheChannels) {
  for (const std::uint32_t dim : {64u, 80u, 96u, 128u, 256u}) {
    for (const std::uint32_t channels : {8u, 16u, 32u}) {
      const std::string spec = "channels=" + std::to_string(channels) + ",rest=(turboquant_mse:bits=4,gauge=none)";
      const std::size_t rest = Keys("turboquant_mse:bits=4,gauge=none", dim - channels)->block_bytes();
      const std::size_t hot = kTokens * (channels + 2);
      EXPECT_EQ(Keys("outlier:choice=block," + spec, dim)->block_bytes(), hot + rest + channels);
      // int8: 8 bits and a 16-bit scale per row, so 16 / channels beside it.
      EXPECT_EQ(hot % 64 + rest % 64, 0u) << "no padding in blocks of 128 tokens";
    }
  }
  const std::string rest = "turboquant_mse:bits=2,gauge=none";
  EXPECT_EQ(Keys("outlier:choice=block,channels=16,rest=(" + rest + ")", 512)->block_bytes() - Keys(rest, 496)->block_bytes(),
            kTokens * 18 + 32);  // channels of 16 bits
}

TEST(OutlierTest, DeclaresTheErrorOfNormalRowsWhoseStrongestChannelsItKeeps) {
  std::mt19937 random(kSeed + 3);
  for (const std::size_t hot : {8, 32}) {
    double sum = 0;
    constexpr int kRepeats = 200;
    for (int repeat = 0; repeat < kRepeats; ++repeat) {
      std::vector<float> energies(kDim, 0.0f);
      for (float& energy : energies) {
        for (const float x : NormalNumbers(32, random)) energy += x * x / 32;
      }
      std::sort(energies.rbegin(), energies.rend());
      for (std::size_t i = 0; i < hot; ++i) sum += energies[i];
    }
    EXPECT_NEAR(sum / static_cast<double>(kRepeats * hot), LargestEnergy(kDim, hot, 32), 0.01) << hot;
  }
}

TEST(OutlierTest, AnyChannelsInABlockAreRead) {
  std::mt19937 random(kSeed + 4);
  const auto keys = Keys("outlier:choice=block");
  const auto rows = RowsWithOutliers(random, 30.0f);
  AlignedBytes block(keys->block_bytes());
  ASSERT_TRUE(EncodeBlock(*keys, 0, 0, RowsOf(rows, kDim), block.data()));
  const auto queries = NormalNumbers(3 * kDim, random);
  for (const int byte : {0, 127, 128, 255}) {  // named twice, or beyond the head size
    std::memset(block.data() + keys->block_bytes() - 8, byte, 8);
    for (const float x : ScoreBlock(*keys, 0, queries, 3, block.data(), kTokens)) EXPECT_TRUE(std::isfinite(x));
    std::vector<float> decoded(kTokens * kDim);
    DecodeBlock(*keys, 0, 0, block.data(), 0, kTokens, decoded.data(), kDim);
    EXPECT_TRUE(std::all_of(decoded.begin(), decoded.end(), [](float x) { return std::isfinite(x); }));
  }
  const std::byte bytes[8] = {std::byte{200}, std::byte{5}, std::byte{5}, std::byte{1}};
  const auto split = ChannelSplit::Load(bytes, 16, 8);  // 5, 1 and 0 are named; 2, 3, 4, 6, 7 are the lowest left
  for (std::size_t i = 0; i < 16; ++i) EXPECT_EQ(split.channel(i), i);
}

TEST(OutlierTest, KeysWithACommonPartAreNoWorseThanTheirParts) {
  // A bias in one channel is that channel's business; int8 keeps it to half a step of its own size.
  constexpr std::size_t kBiased = 77;
  const auto keys = Keys("outlier:rest=(turboquant_mse:bits=4)");
  const double of_rest = *Keys("turboquant_mse:bits=4", kDim - 8)->expected_error(1);
  for (const float norm : {0.0f, 22.0f, 605.0f, 921.0f}) {
    std::mt19937 random(kSeed + 5);
    auto rows = NormalNumbers(kTokens * kDim, random);
    for (float& x : rows) x /= std::sqrt(static_cast<float>(kDim));
    for (std::size_t t = 0; t < kTokens; ++t) rows[t * kDim + kBiased] += norm;
    const auto decoded = RoundTrip(*keys, 0, rows, kDim);
    double error = 0;
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (i % kDim == kBiased && norm > 0) {
        EXPECT_LE(std::fabs(rows[i] - decoded[i]), std::fabs(rows[i]) / 127 * 0.51f);
      } else {
        error += std::pow(static_cast<double>(rows[i]) - decoded[i], 2);
      }
    }
    // Seven more channels share the int8 scale of the biased one: at most half of its step each, one eighteenth of all
    // channels.
    const double hot = 7 * std::pow((norm + 1) / 127 / 2, 2);
    EXPECT_LE(error / kTokens, 1.1 * of_rest + hot) << norm;
  }
}

TEST(OutlierTest, CarriesOtherCodecsInItsParts) {
  const Registry registry = WithToys();
  const RopeSpec rope{RopePairing::kHalfSplit, 10000.0, 0};
  for (const std::string spec :
       {"outlier:hot=(toy_planes),rest=(toy_codebook),choice=calibrated", "outlier:hot=(f16),rest=(kivi:bits=2)",
        "outlier:channels=16,hot=(int8),rest=(outlier:rest=(turboquant_mse:bits=4))"}) {
    for (const std::size_t dim : {64, 128}) {
      const test::ConformanceCase codec(registry, spec, dim, rope);
      ASSERT_TRUE(codec.supported()) << spec;
      codec.CheckAll();
    }
  }
}

TEST(OutlierTest, AttentionMatchesBruteForce) {
  const Registry registry = Registry::Builtin();
  std::uint64_t seed = 94;
  for (const std::string spec : {"outlier:rest=(turboquant_mse:bits=4)", "outlier:choice=calibrated", "kivi", "kivi:bits=2"}) {
    test::CaseShape shape{.keys = spec, .values = spec, .group = 3, .tail = 90, .queries = 7};
    shape.artifact = test::ExampleArtifact(registry, spec, 2, shape.head_dim);
    test::ExpectMatchesReference(registry, shape, seed++);
    shape.window = 200;
    shape.queries = 70;
    test::ExpectMatchesReference(registry, shape, seed++);
  }
}

TEST(OutlierTest, SaysWhatItDoesNotServe) {
  const Registry registry = WithToys();
  const auto refused = [&](const std::string& spec, std::uint32_t dim, const std::string& what) {
    const auto made = TryKeys(registry, spec, dim);
    ASSERT_FALSE(made) << spec;
    EXPECT_NE(made.error().message.find(what), std::string::npos) << made.error().message;
  };
  refused("outlier:channels=12", 64, "channels=12 is not a multiple of 8 below head_dim 64");
  refused("outlier:channels=64", 64, "channels=64 is not a multiple of 8 below head_dim 64");
  refused("outlier:choice=calibrated", 64,
          "needs tensor \"layers.2.keys.outliers\" of shape [1, 64], but the plan has no artifact");
  refused("outlier:rest=(turboquant_mse:bits=2,center=1)", 64, "56 channels in turboquant_mse: ");
  refused("outlier:hot=(toy_pre_rope)", 64, "it turns pairs of channels");
  const auto artifact = std::move(Artifact::Make(ArtifactImage(std::vector<ExampleTensor>{
                                      {"layers.2.keys.outliers", {1, 32}, std::vector<float>(32, 1.0f)}})))
                            .value();
  const auto made = TryKeys(registry, "outlier", 64, artifact.get());
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().message.find("[1, 32], want [1, 64]"), std::string::npos) << made.error().message;
}

}  // namespace
}  // namespace kvant::quantizers
