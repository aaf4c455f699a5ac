// kivi against its mathematics: distortion, bound, bytes, and keys with a common part or outlier channels.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "quantizers/range_error.h"
#include "quantizers/registry.h"
#include "tests/quantizers/turboquant_mse_fixture.h"

namespace kvant::quantizers {
namespace {

constexpr std::uint32_t kSeed = 82;
constexpr std::uint32_t kTokens = 128;

struct Made {
  std::unique_ptr<KeyCodec> keys;
  std::unique_ptr<ValueCodec> values;

  Made(const std::string& spec, std::uint32_t dim) {
    const Registry registry = Registry::Builtin();
    const ParsedSpec parsed = registry.Parse(spec).value();
    const CodecConfig config{.kv_heads = 1, .head_end = 1, .head_dim = dim, .block_tokens = kTokens, .model = "test"};
    keys = std::move(MakeKeys(parsed, config)).value();
    values = std::move(MakeValues(parsed, config)).value();
  }
};

/// Squared error per number of N(0, 1) over enough blocks.
double Distortion(const BlockCodec& codec, std::size_t dim, std::mt19937& random) {
  constexpr int kBlocks = 40;
  double sum = 0;
  for (int b = 0; b < kBlocks; ++b) {
    const auto rows = NormalNumbers(kTokens * dim, random);
    const auto decoded = RoundTrip(codec, 0, rows, dim);
    for (std::size_t i = 0; i < rows.size(); ++i) sum += std::pow(static_cast<double>(rows[i]) - decoded[i], 2);
  }
  return sum / static_cast<double>(kBlocks * kTokens * dim);
}

// By simulation and by integration, independently of RangeError: bits 2, 3, 4.
struct Tabled {
  std::size_t group;
  double distortion[3];
};
constexpr Tabled kTable[] = {{32, {.1548, .0282, .00612}}, {64, {.2024, .0368, .00802}}, {128, {.2505, .0457, .00994}}};

TEST(KiviTest, DistortionOfNormalRowsIsThatOfTheLawOfTheRange) {
  std::mt19937 random(kSeed);
  for (const Tabled& row : kTable) {
    for (std::uint32_t bits = 2; bits <= 4; ++bits) {
      const double expected = row.distortion[bits - 2];
      EXPECT_NEAR(RangeError(row.group, bits), expected, 0.005 * expected) << row.group << " " << bits;
      const Made made("kivi:bits=" + std::to_string(bits) + ",group=" + std::to_string(row.group), 128);
      EXPECT_NEAR(Distortion(*made.keys, 128, random), expected, 0.02 * expected) << "keys " << row.group << " " << bits;
      EXPECT_NEAR(Distortion(*made.values, 128, random), expected, 0.02 * expected) << "values " << row.group << " " << bits;
    }
  }
}

TEST(KiviTest, OtherBitsHaveTheDistortionTheyDeclare) {
  std::mt19937 random(kSeed + 1);
  for (const std::uint32_t bits : {1u, 5u, 6u, 7u, 8u}) {
    const Made made("kivi:bits=" + std::to_string(bits), 80);  // values: groups of 32, 32 and 16
    const double keys = *made.keys->expected_error(1), values = *made.values->expected_error(1);
    EXPECT_NEAR(Distortion(*made.keys, 80, random), keys, 0.02 * keys) << bits;
    EXPECT_NEAR(Distortion(*made.values, 80, random), values, 0.02 * values) << bits;
    EXPECT_EQ(bits == 1, keys > 1.0);  // one bit is worse than storing zeros
  }
}

TEST(KiviTest, BitsPerElementAreTheFormulas) {
  for (const std::uint32_t bits : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u}) {
    for (const std::uint32_t group : {32u, 64u, 128u}) {
      for (const std::uint32_t dim : {64u, 80u, 96u, 128u, 256u}) {
        const Made made("kivi:bits=" + std::to_string(bits) + ",group=" + std::to_string(group), dim);
        const std::size_t groups = (dim + group - 1) / group;
        EXPECT_EQ(8 * made.values->block_bytes(), kTokens * (bits * dim + 32 * groups));
        EXPECT_EQ(8 * made.keys->block_bytes(), kTokens * dim * bits + kTokens / group * dim * 32);
      }
    }
  }
}

/// Adds `norm` to rows: all of it to channel 5, or evenly to all channels.
void AddBias(std::vector<float>& rows, std::size_t dim, float norm, bool even) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (even) rows[i] += norm / std::sqrt(static_cast<float>(dim));
    if (!even && i % dim == 5) rows[i] += norm;
  }
}

/// The distance between f16 numbers of this size.
float SpacingOfF16(float x) { return std::ldexp(1.0f, std::ilogb(std::max(x, 0x1p-14f)) - 10); }

TEST(KiviTest, KeysWithACommonPartStayWithinTheBound) {
  // Unit rows around a bias: |x - x'| is at most half of what the range, and what f16 cannot hold of its lower end, divide
  // into.
  constexpr std::size_t kDim = 128;
  for (const std::uint32_t bits : {2u, 4u, 8u}) {
    const Made made("kivi:bits=" + std::to_string(bits), kDim);
    const auto levels = static_cast<float>((1u << bits) - 1u);
    for (const float norm : {0.0f, 22.0f, 605.0f, 921.0f}) {
      for (const bool even : {false, true}) {
        std::mt19937 random(kSeed + 2);
        auto rows = NormalNumbers(kTokens * kDim, random);
        for (float& x : rows) x /= std::sqrt(static_cast<float>(kDim));
        AddBias(rows, kDim, norm, even);
        const auto decoded = RoundTrip(*made.keys, 0, rows, kDim);
        for (std::size_t first = 0; first < kTokens; first += 32) {
          for (std::size_t d = 0; d < kDim; ++d) {
            float low = rows[first * kDim + d], high = low, largest = 0;
            for (std::size_t t = first; t < first + 32; ++t) {
              low = std::min(low, rows[t * kDim + d]);
              high = std::max(high, rows[t * kDim + d]);
              largest = std::max(largest, std::fabs(rows[t * kDim + d] - decoded[t * kDim + d]));
            }
            // 0.1 %: the step has 11 bits. 2e-7: floats of the size of the numbers.
            const float bound = 0.5f * 1.001f * (high - low + SpacingOfF16(std::fabs(low))) / levels + 2e-7f * std::fabs(high);
            ASSERT_LE(largest, bound) << bits << " bits, bias " << norm << (even ? " of all channels" : " of one channel");
          }
        }
      }
    }
  }
}

TEST(KiviTest, RowsOfF16LoseNothingToTheirCommonPart) {
  // A minimum that f16 holds is stored as it is: codes and steps are then those without the common part.
  constexpr std::size_t kDim = 64;
  const Made made("kivi:bits=4", kDim);
  for (const float bias : {22.0f, 605.0f, 921.0f}) {
    std::mt19937 random(kSeed + 3);
    auto rows = NormalNumbers(kTokens * kDim, random);
    const float spacing = SpacingOfF16(bias);
    for (float& x : rows) x = std::round(x / spacing) * spacing;
    const auto alone = RoundTrip(*made.keys, 0, rows, kDim);
    for (float& x : rows) x += bias;
    const auto together = RoundTrip(*made.keys, 0, rows, kDim);
    for (std::size_t i = 0; i < rows.size(); ++i) ASSERT_NEAR(together[i] - bias, alone[i], 2e-7f * bias) << bias;
  }
}

TEST(KiviTest, ScoresOfBiasedKeysAreThoseOfDecodedRows) {
  constexpr std::size_t kDim = 128, kQueries = 4;
  std::mt19937 random(kSeed + 4);
  for (const std::uint32_t bits : {2u, 4u, 6u, 8u}) {
    const Made made("kivi:bits=" + std::to_string(bits), kDim);
    for (const float norm : {0.0f, 605.0f, 921.0f}) {
      auto rows = NormalNumbers(kTokens * kDim, random);
      for (float& x : rows) x /= std::sqrt(static_cast<float>(kDim));
      AddBias(rows, kDim, norm, false);
      AlignedBytes block(made.keys->block_bytes());
      ASSERT_TRUE(EncodeBlock(*made.keys, 0, 0, {rows.data(), ElementType::kF32, kTokens, kDim, kDim}, block.data()));
      std::vector<float> decoded(rows.size());
      DecodeBlock(*made.keys, 0, 0, block.data(), 0, kTokens, decoded.data(), kDim);
      const auto queries = NormalNumbers(kQueries * kDim, random);
      const auto logits = ScoreBlock(*made.keys, 0, queries, kQueries, block.data(), kTokens);
      double hidden = 0, own = 0, floats = 0;
      for (std::size_t i = 0; i < kQueries; ++i) {
        for (std::size_t t = 0; t < kTokens; ++t) {
          const double expected = Dot(&queries[i * kDim], &decoded[t * kDim], kDim);
          hidden += std::pow(logits[i * kTokens + t] - expected, 2);
          own += std::pow(expected - Dot(&queries[i * kDim], &rows[t * kDim], kDim), 2);
          floats += std::pow(1e-6 * (norm + 1) * std::sqrt(static_cast<double>(kDim)), 2);
        }
      }
      // The channel of the bias has a coarser step (f16 holds its minimum to 1/4), which all products are rounded against.
      EXPECT_LE(hidden, 0.1 * own + floats) << bits << " bits, bias " << norm;
    }
  }
}

TEST(KiviTest, AnOutlierChannelOfKeysCostsOnlyItself) {
  constexpr std::size_t kDim = 128;
  std::mt19937 random(kSeed + 5);
  const Made made("kivi:bits=4", kDim);
  double error = 0;
  constexpr int kBlocks = 20;
  for (int b = 0; b < kBlocks; ++b) {
    auto rows = NormalNumbers(kTokens * kDim, random);
    for (std::size_t t = 0; t < kTokens; ++t) rows[t * kDim + 7] *= 200.0f;
    const auto decoded = RoundTrip(*made.keys, 0, rows, kDim);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (i % kDim != 7) error += std::pow(static_cast<double>(rows[i]) - decoded[i], 2);
    }
  }
  EXPECT_NEAR(error / (kBlocks * kTokens * (kDim - 1.0)), RangeError(32, 4), 0.02 * RangeError(32, 4));
}

TEST(KiviTest, ConstantAndZeroRowsAreExact) {
  constexpr std::size_t kDim = 80;
  for (const std::uint32_t bits : {1u, 4u, 8u}) {
    const Made made("kivi:bits=" + std::to_string(bits), kDim);
    for (const float number : {0.0f, -3.25f, 65504.0f}) {
      const std::vector<float> rows(kTokens * kDim, number);
      EXPECT_EQ(RoundTrip(*made.keys, 0, rows, kDim), rows);
      EXPECT_EQ(RoundTrip(*made.values, 0, rows, kDim), rows);
    }
    std::mt19937 random(kSeed + 6);
    auto rows = NormalNumbers(kTokens * kDim, random);
    std::fill_n(rows.begin() + 9 * kDim, kDim, 0.0f);  // a zero row of values among others
    const auto decoded = RoundTrip(*made.values, 0, rows, kDim);
    EXPECT_TRUE(std::all_of(decoded.begin() + 9 * kDim, decoded.begin() + 10 * kDim, [](float x) { return x == 0.0f; }));
  }
}

TEST(KiviTest, SaysWhatItDoesNotServe) {
  const Registry registry = Registry::Builtin();
  CodecConfig config{.kv_heads = 1, .head_end = 1, .head_dim = 64, .block_tokens = 32, .model = "test"};
  const auto refused = [&](const std::string& spec, const std::string& what) {
    const auto made = MakeKeys(registry.Parse(spec).value(), config);
    ASSERT_FALSE(made) << spec;
    EXPECT_NE(made.error().message.find(what), std::string::npos) << made.error().message;
  };
  refused("kivi:bits=2", "block_tokens 32 is not a multiple of 64");
  refused("kivi:bits=4,group=128", "block_tokens 32 is not a multiple of 128");
  config.head_dim = 20;
  refused("kivi", "head_dim 20 is not a multiple of 8");
  const Made made("kivi", 64);
  std::vector<float> rows(kTokens * 64, 1.0f);
  rows[70 * 64 + 3] = 70000.0f;
  AlignedBytes block(made.keys->block_bytes());
  const auto stored = EncodeBlock(*made.keys, 0, 0, {rows.data(), ElementType::kF32, kTokens, 64, 64}, block.data());
  ASSERT_FALSE(stored);
  EXPECT_EQ(stored.error().code, ErrorCode::kNotFinite);
  EXPECT_EQ(stored.error().message, "encode as kivi: row 70 has numbers beyond 65504");
}

/// FNV-1a.
std::uint64_t Hash(const std::byte* bytes, std::size_t n) {
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (std::size_t i = 0; i < n; ++i) hash = (hash ^ std::to_integer<std::uint64_t>(bytes[i])) * 0x100000001b3u;
  return hash;
}

TEST(KiviTest, StoredBytesStayWhatTheyAre) {
  // Rows of exact numbers, so that no library function has a say. Change these with the codec's version only.
  constexpr std::uint64_t kKeys[] = {0x75583e587c45b0bfu, 0xf1e4b25fa497f52fu, 0x10800a96e88f57ffu, 0x04cdbde96235afb8u,
                                     0x6b1836bd258fdbc0u, 0xeffaf4687b80be41u, 0x6a2cb5bfc881bbbdu, 0xbcdc0b5af5ee046au};
  constexpr std::uint64_t kValues[] = {0x61b9ae7f34fd6e40u, 0x5d54a3bc40e5f2cdu, 0x67df3bdb3cdfc96du, 0x510a1026aed31c6bu,
                                       0x300d46fdc4f8b69bu, 0xce78a05b9cb3e042u, 0x361cb25c6ca704e5u, 0x664866a66c68e0a4u};
  constexpr std::size_t kDim = 72;
  std::vector<float> rows(kTokens * kDim);
  std::uint32_t state = 1;
  for (float& x : rows) {
    state = state * 1664525u + 1013904223u;
    x = static_cast<float>(static_cast<std::int32_t>(state)) * 0x1p-29f;
  }
  for (std::uint32_t bits = 1; bits <= 8; ++bits) {
    const Made made("kivi:bits=" + std::to_string(bits), kDim);
    const auto hash = [&](const BlockCodec& codec) {
      AlignedBytes block(codec.block_bytes());
      EXPECT_TRUE(EncodeBlock(codec, 0, 0, {rows.data(), ElementType::kF32, kTokens, kDim, kDim}, block.data()));
      return Hash(block.data(), codec.block_bytes());
    };
    EXPECT_EQ(hash(*made.keys), kKeys[bits - 1]) << std::hex << hash(*made.keys);
    EXPECT_EQ(hash(*made.values), kValues[bits - 1]) << std::hex << hash(*made.values);
  }
}

}  // namespace
}  // namespace kvant::quantizers
