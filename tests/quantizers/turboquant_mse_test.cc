// The codec as attention uses it: sizes, distortion, the fused paths against decoded rows, bad input, stored bytes.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "hwy/targets.h"
#include "kernels/lloyd/layout.h"
#include "kernels/lloyd/query.h"
#include "kernels/lloyd/reference/encode.h"
#include "kernels/rotation/reference/hadamard.h"
#include "quantizers/rotation.h"
#include "tests/quantizers/turboquant_mse_fixture.h"

namespace kvant::quantizers {
namespace {

constexpr std::uint32_t kSeed = 31;

TEST(TurboQuantMseTest, TakesBitsPlusSixteenPerRow) {
  for (const std::uint32_t dim : {64u, 80u, 96u, 128u, 256u}) {
    for (const std::uint32_t bits : {1u, 2u, 3u, 4u, 8u}) {
      const TurboQuant codec{.spec = TurboSpec(bits), .head_dim = dim};
      const double expected = bits + 16.0 / dim;
      EXPECT_EQ(8.0 * static_cast<double>(codec.Keys()->block_bytes()) / (128.0 * dim), expected) << dim << " " << bits;
      EXPECT_EQ(8.0 * static_cast<double>(codec.Values()->block_bytes()) / (128.0 * dim), expected) << dim << " " << bits;
    }
  }
}

/// The mean of rows' relative squared errors, and its standard error.
std::pair<double, double> RowErrors(const std::vector<float>& rows, const std::vector<float>& back, std::size_t dim) {
  double sum = 0.0, squares = 0.0;
  const std::size_t n = rows.size() / dim;
  for (std::size_t t = 0; t < n; ++t) {
    double error = 0.0;
    for (std::size_t i = t * dim; i < (t + 1) * dim; ++i)
      error += (static_cast<double>(rows[i]) - back[i]) * (static_cast<double>(rows[i]) - back[i]);
    error /= Dot(&rows[t * dim], &rows[t * dim], dim);
    sum += error;
    squares += error * error;
  }
  const double mean = sum / static_cast<double>(n);
  return {mean, std::sqrt((squares / static_cast<double>(n) - mean * mean) / static_cast<double>(n))};
}

TEST(TurboQuantMseTest, GaussianRowsHaveTheDeclaredError) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {40u, 64u, 72u, 80u, 96u, 128u, 256u}) {
    for (const std::uint32_t bits : {1u, 2u, 3u, 4u, 8u}) {
      for (const char* scale : {"", ",scale=norm", ",scale=norm_kept"}) {
        const TurboQuant codec{.spec = TurboSpec(bits, scale), .head_dim = dim, .block_tokens = 1024};
        const auto rows = NormalNumbers(1024 * dim, random);
        for (const Side side : {Side::kKeys, Side::kValues}) {
          const auto back =
              side == Side::kKeys ? RoundTrip(*codec.Keys(), 0, rows, dim) : RoundTrip(*codec.Values(), 0, rows, dim);
          const auto [error, deviation] = RowErrors(rows, back, dim);
          const double declared = codec.Declared(side);
          // Declared to first order in 1 / dim: the next is below 0.3 / dim^2 of 1 bit's; rows are few, and at 8 bits tails are
          // rare.
          EXPECT_NEAR(error, declared, 0.005 * declared + 4.5 * deviation) << codec.spec << " dim " << dim << " seed " << kSeed;
        }
      }
    }
  }
}

TEST(TurboQuantMseTest, ScoresAreDotProductsWithDecodedRowsWithinQueryRounding) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {40u, 64u, 80u, 128u, 256u}) {
    for (const std::uint32_t bits : {1u, 2u, 3u, 4u, 8u}) {
      const TurboQuant codec{.spec = TurboSpec(bits), .head_dim = dim};
      const auto keys = codec.Keys();
      const auto rows = NormalNumbers(128 * dim, random);
      AlignedBytes block(keys->block_bytes());
      ASSERT_TRUE(EncodeBlock(*keys, 0, 0, RowsOf(rows, dim), block.data()));
      std::vector<float> decoded(rows.size());
      DecodeBlock(*keys, 0, 0, block.data(), 0, 128, decoded.data(), dim);
      constexpr std::size_t kQueries = 9;
      const auto queries = NormalNumbers(kQueries * dim, random);
      auto logits = ScoreBlock(*keys, 0, queries, kQueries, block.data(), 128);
      const Rotation rotation(dim, RotationRounds(dim), RotationSeed({"turboquant_mse", 2, "test", 0, 0, Side::kKeys}));
      const double declared = codec.Declared(Side::kKeys);
      double squared = 0.0, predicted = 0.0, key_noise = 0.0;
      for (std::size_t i = 0; i < kQueries; ++i) {
        std::vector<float> rotated(queries.begin() + static_cast<std::ptrdiff_t>(i * dim),
                                   queries.begin() + static_cast<std::ptrdiff_t>((i + 1) * dim));
        const double query2 = Dot(rotated.data(), rotated.data(), dim);
        kernels::reference::Hadamard(rotation.shape(), rotation.rounds(), rotation.signs(), rotated.data());
        double largest = 0.0;
        for (const float v : rotated) largest = std::max(largest, std::fabs(static_cast<double>(v)));
        const double step = largest / rotation.shape().gain(rotation.rounds()) / (bits == 8 ? 2047 : 127);
        // Rotated in integers, each dim is rounded once per round before that, to units of the norm's `limit`-th part.
        const bool in_integers = bits <= 4 && kernels::HasQueryTurns(rotation.shape(), rotation.rounds());
        const auto roundings = static_cast<double>(rotation.rounds());
        const double unit = in_integers ? std::sqrt(query2) / double{kernels::QueryRotation::Of(dim).limit} : 0.0;
        for (std::size_t t = 0; t < 128; ++t) {
          const float* row = &decoded[t * dim];
          const double norm2 = Dot(row, row, dim);
          const double error = logits[i * 128 + t] - Dot(&queries[i * dim], row, dim);
          // Every dim of the rotated query is off by at most half a step; Cauchy and Schwarz. A little for float.
          ASSERT_LE(std::fabs(error),
                    0.5 * (step + roundings * unit) * std::sqrt(dim * norm2) + 1e-5 * std::sqrt(query2 * norm2))
              << dim << " " << bits;
          squared += error * error;
          predicted += (step * step + roundings * unit * unit) / 12.0 * norm2;
          key_noise += query2 * norm2 * declared / dim;
        }
      }
      EXPECT_NEAR(squared / predicted, 1.0, 0.3) << "dim " << dim << " bits " << bits << " seed " << kSeed;
      EXPECT_LT(squared, 0.05 * key_noise) << "dim " << dim << " bits " << bits << " seed " << kSeed;
    }
  }
}

TEST(TurboQuantMseTest, WeightedSumsAreThoseOfDecodedRowsWithinWeightRounding) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {40u, 64u, 80u, 128u, 256u}) {
    for (const std::uint32_t bits : {1u, 2u, 3u, 4u, 8u}) {
      for (const bool peaked : {false, true}) {
        const std::uint32_t tokens = 256;
        const TurboQuant codec{.spec = TurboSpec(bits), .head_dim = dim, .block_tokens = tokens};
        const auto values = codec.Values();
        const auto rows = NormalNumbers(tokens * dim, random);
        AlignedBytes block(values->block_bytes());
        ASSERT_TRUE(EncodeBlock(*values, 0, 0, RowsOf(rows, dim), block.data()));
        std::vector<float> decoded(rows.size());
        DecodeBlock(*values, 0, 0, block.data(), 0, tokens, decoded.data(), dim);
        constexpr std::size_t kQueries = 6;
        auto weights = NormalNumbers(kQueries * tokens, random);
        for (auto& weight : weights) weight = std::exp(weight) * (peaked ? 1e-3f : 1.0f);
        if (peaked) {
          for (std::size_t i = 0; i < kQueries; ++i) weights[i * tokens + 17 + i] = weights[i * tokens + 200] = 1.0f;
        }
        std::vector<float> sums(kQueries);
        const auto out = SumBlock(*values, 0, weights, kQueries, block.data(), sums.data(), dim);
        const double declared = codec.Declared(Side::kValues);
        double error = 0.0, noise = 0.0;
        for (std::size_t i = 0; i < kQueries; ++i) {
          std::vector<double> exact(dim);
          for (std::size_t t = 0; t < tokens; ++t) {
            const double weight = weights[i * tokens + t];
            for (std::size_t d = 0; d < dim; ++d) exact[d] += weight * decoded[t * dim + d];
            noise += weight * weight * declared * dim;
          }
          for (std::size_t d = 0; d < dim; ++d) error += (out[i * dim + d] - exact[d]) * (out[i * dim + d] - exact[d]);
        }
        EXPECT_LT(error, 0.05 * noise) << "dim " << dim << " bits " << bits << " peaked " << peaked << " seed " << kSeed;
        EXPECT_GT(error, 0.0);
      }
    }
  }
}

TEST(TurboQuantMseTest, DecodesAnyRunOfRowsAsTheWholeBlock) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t bits : {3u, 4u}) {
    const TurboQuant codec{.spec = TurboSpec(bits), .head_dim = 40};
    const auto rows = NormalNumbers(128 * 40, random);
    for (const bool keys : {true, false}) {
      const std::unique_ptr<BlockCodec> side = keys ? std::unique_ptr<BlockCodec>(codec.Keys()) : codec.Values();
      AlignedBytes block(side->block_bytes());
      ASSERT_TRUE(EncodeBlock(*side, 0, 0, RowsOf(rows, 40), block.data()));
      std::vector<float> whole(128 * 40);
      DecodeBlock(*side, 0, 0, block.data(), 0, 128, whole.data(), 40);
      for (const auto& [begin, end] :
           std::vector<std::pair<std::size_t, std::size_t>>{{0, 0}, {0, 1}, {3, 4}, {5, 16}, {15, 17}, {13, 127}, {127, 128}}) {
        std::vector<float> part((end - begin) * 40 + 1, 9.0f);
        DecodeBlock(*side, 0, 0, block.data(), begin, end, part.data(), 40);
        for (std::size_t i = 0; i < (end - begin) * 40; ++i) ASSERT_EQ(part[i], whole[begin * 40 + i]) << begin << " " << end;
        ASSERT_EQ(part.back(), 9.0f);
      }
    }
  }
}

TEST(TurboQuantMseTest, RefusesWhatItCannotStoreAndNamesTheRow) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e30f}) {
    std::vector<float> rows(128 * 64, 1.0f);
    rows[77 * 64 + 3] = bad;
    const TurboQuant codec{.head_dim = 64, .kv_heads = 3};
    const auto keys = codec.Keys();
    AlignedBytes block(keys->block_bytes());
    const auto outcome = EncodeBlock(*keys, 2, 0, RowsOf(rows, 64), block.data());
    ASSERT_FALSE(outcome);
    EXPECT_EQ(outcome.error().code, ErrorCode::kNotFinite);
    EXPECT_NE(outcome.error().message.find("row 77 of KV head 2"), std::string::npos) << outcome.error().message;
  }
}

TEST(TurboQuantMseTest, KeepsNormsThatHalfPrecisionCannotHoldAndExactZeros) {
  std::mt19937 random(kSeed);
  const TurboQuant codec{.head_dim = 64};
  auto rows = NormalNumbers(128 * 64, random);
  for (std::size_t t = 0; t < 128; ++t) {
    const float factors[] = {0.0f, 1e-40f, 1.0f, 65504.0f, 1e7f, 5e8f};
    for (std::size_t i = 0; i < 64; ++i) rows[t * 64 + i] *= factors[t % 6];
  }
  const auto out = RoundTrip(*codec.Values(), 0, rows, 64);
  for (std::size_t t = 0; t < 128; ++t) {
    const std::vector<float> row(&rows[t * 64], &rows[t * 64] + 64), back(&out[t * 64], &out[t * 64] + 64);
    if (t % 6 < 2) {
      for (const float v : back) EXPECT_EQ(v, 0.0f);
    } else {
      EXPECT_LT(RelativeError(row, back), 0.03) << t;  // .0089 on average with a deviation of .0022
    }
  }
}

TEST(TurboQuantMseTest, EqualRowsGetEqualScores) {
  std::mt19937 random(kSeed);
  const TurboQuant codec{.spec = TurboSpec(3), .head_dim = 96};
  const auto row = NormalNumbers(96, random);
  std::vector<float> rows;
  for (int t = 0; t < 128; ++t) rows.insert(rows.end(), row.begin(), row.end());
  const auto keys = codec.Keys();
  AlignedBytes block(keys->block_bytes());
  ASSERT_TRUE(EncodeBlock(*keys, 0, 0, RowsOf(rows, 96), block.data()));
  auto logits = ScoreBlock(*keys, 0, NormalNumbers(96, random), 1, block.data(), 128);
  for (const float logit : logits) EXPECT_EQ(logit, logits[0]);
}

TEST(TurboQuantMseTest, RefusesShapesItCannotServe) {
  EXPECT_EQ((TurboQuant{.head_dim = 100}.TryKeys().error().code), ErrorCode::kUnsupported);
  EXPECT_EQ((TurboQuant{.head_dim = 1032}.TryValues().error().code), ErrorCode::kUnsupported);
  const auto error = (TurboQuant{.spec = TurboSpec(3), .block_tokens = 64}.TryKeys()).error();
  EXPECT_EQ(error.code, ErrorCode::kInvalidArgument);
  EXPECT_NE(error.message.find("128"), std::string::npos) << error.message;
  for (const char* spec :
       {"turboquant_mse:bits=9", "turboquant_mse:bits=0", "turboquant_mse:center=2", "turboquant_mse:scale=loud"}) {
    EXPECT_FALSE(Registry::Builtin().Parse(spec)) << spec;
  }
}

/// Rows that any program can make: the top 24 bits of splitmix64 of the element's number, as a fraction in [-1, 1).
std::vector<float> GoldenRows(std::size_t n) {
  std::vector<float> rows(n);
  for (std::size_t i = 0; i < n; ++i) {
    std::uint64_t z = (i + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    rows[i] = static_cast<float>((z ^ (z >> 31)) >> 40) * 0x1p-23f - 1.0f;
  }
  return rows;
}

std::uint64_t Fnv1a(const std::byte* bytes, std::size_t n) {
  std::uint64_t hash = 0xCBF29CE484222325u;
  for (std::size_t i = 0; i < n; ++i) hash = (hash ^ static_cast<std::uint64_t>(bytes[i])) * 0x100000001B3u;
  return hash;
}

struct Golden {
  std::uint32_t bits, dim;
  std::uint64_t keys, values;
};

// FNV-1a of the blocks that the scalar twin writes. If these must change, so must the codec's version: blocks are shared and
// stored.
constexpr Golden kGolden[] = {
#include "tests/quantizers/turboquant_mse_golden.inc"
};

TEST(TurboQuantMseTest, StoredBytesAreGoldenOnEveryTarget) {
  for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    for (const Golden& golden : kGolden) {
      const TurboQuant codec{
          .spec = TurboSpec(golden.bits), .head_dim = golden.dim, .kv_heads = 2, .layer = 5, .model = "golden"};
      const auto rows = GoldenRows(128 * golden.dim);
      const auto keys = codec.Keys();
      AlignedBytes block(keys->block_bytes());
      ASSERT_TRUE(EncodeBlock(*keys, 1, 0, RowsOf(rows, golden.dim), block.data()));
      EXPECT_EQ(Fnv1a(block.data(), keys->block_bytes()), golden.keys)
          << hwy::TargetName(target) << " " << golden.bits << " " << golden.dim;
      const auto values = codec.Values();
      ASSERT_TRUE(EncodeBlock(*values, 1, 0, RowsOf(rows, golden.dim), block.data()));
      EXPECT_EQ(Fnv1a(block.data(), values->block_bytes()), golden.values)
          << hwy::TargetName(target) << " " << golden.bits << " " << golden.dim;
    }
  }
  hwy::SetSupportedTargetsForTest(0);
}

TEST(TurboQuantMseTest, GoldenBytesAreTheScalarTwins) {
  for (const Golden& golden : kGolden) {
    const auto rows = GoldenRows(128 * golden.dim);
    for (const Side side : {Side::kKeys, Side::kValues}) {
      const Rotation rotation(golden.dim, RotationRounds(golden.dim),
                              RotationSeed({"turboquant_mse", 2, "golden", 5, 1, side}));
      const bool is_keys = side == Side::kKeys;
      const kernels::LloydEncoding how{.table = kernels::FindLloydTable(golden.bits),
                                       .shape = rotation.shape(),
                                       .rounds = rotation.rounds(),
                                       .signs = rotation.signs(),
                                       .mean = nullptr,
                                       .layout = is_keys ? kernels::LloydLayout::kKeys : kernels::LloydLayout::kValues,
                                       .scale = is_keys ? kernels::LloydScale::kUnbiased : kernels::LloydScale::kLeastSquares};
      std::vector<std::uint8_t> block(kernels::LloydBlockBytes(golden.bits, golden.dim, 128));
      ASSERT_EQ(kernels::reference::LloydEncode(how, RowsOf(rows, golden.dim), block.data()), 128u);
      const std::uint64_t hash = Fnv1a(reinterpret_cast<const std::byte*>(block.data()), block.size());
      EXPECT_EQ(hash, is_keys ? golden.keys : golden.values)
          << "bits " << golden.bits << " dim " << golden.dim << (is_keys ? " keys 0x" : " values 0x") << std::hex << hash;
    }
  }
}

TEST(TurboQuantMseTest, ScoresAndSumsAreTheSameOnEveryTarget) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {72u, 80u, 128u}) {
    for (const std::uint32_t bits : {1u, 2u, 3u, 4u, 8u}) {
      const TurboQuant codec{.spec = TurboSpec(bits), .head_dim = dim};
      const auto rows = NormalNumbers(128 * dim, random);
      const auto queries = NormalNumbers(5 * dim, random);
      auto weights = NormalNumbers(5 * 128, random);
      for (auto& weight : weights) weight = std::fabs(weight);
      std::vector<float> first;
      for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
        hwy::SetSupportedTargetsForTest(target);
        const auto keys = codec.Keys();
        const auto values = codec.Values();
        AlignedBytes block(keys->block_bytes());
        ASSERT_TRUE(EncodeBlock(*keys, 0, 0, RowsOf(rows, dim), block.data()));
        auto all = ScoreBlock(*keys, 0, queries, 5, block.data(), 128);
        ASSERT_TRUE(EncodeBlock(*values, 0, 0, RowsOf(rows, dim), block.data()));
        std::vector<float> sums(5, 1.0f), decoded(128 * dim);
        const auto out = SumBlock(*values, 0, weights, 5, block.data(), sums.data(), dim);
        DecodeBlock(*values, 0, 0, block.data(), 0, 128, decoded.data(), dim);
        all.insert(all.end(), out.begin(), out.end());
        all.insert(all.end(), decoded.begin(), decoded.end());
        if (first.empty()) first = all;
        ASSERT_EQ(std::memcmp(all.data(), first.data(), all.size() * sizeof(float)), 0)
            << hwy::TargetName(target) << " dim " << dim << " bits " << bits << " seed " << kSeed;
      }
      hwy::SetSupportedTargetsForTest(0);
    }
  }
}

}  // namespace
}  // namespace kvant::quantizers
