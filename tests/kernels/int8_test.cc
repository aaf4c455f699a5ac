#include <algorithm>
#include <cstring>
#include <random>
#include <vector>

#include <hwy/tests/hwy_gtest.h>

#include "kernels/int8/int8.h"
#include "kernels/int8/reference/int8.h"
#include "tests/kernels/lloyd_inputs.h"

namespace kvant::kernels {
namespace {

std::vector<float> Gaussian(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> v(n);
  for (float& x : v) x = normal(random);
  return v;
}

std::vector<std::byte> RandomCodes(std::size_t n) {
  std::mt19937_64 random(n);
  std::vector<std::byte> codes(n);
  for (std::byte& c : codes) c = static_cast<std::byte>(1 + random() % 255);
  return codes;
}

std::vector<std::uint16_t> RandomScales(std::size_t n) {
  std::mt19937_64 random(n);
  std::vector<std::uint16_t> scales(n);
  for (auto& s : scales) s = FloatToUfloat16(static_cast<float>(random() % 1000) * 1e-4f);
  return scales;
}

class Int8Test : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(Int8Test);

TEST_P(Int8Test, PacksCodesWhereTheLayoutSays) {
  for (const std::size_t dim : {8, 16, 24, 64, 72, 128, 1024}) {
    const auto rows = Gaussian(16 * dim, dim);
    std::vector<float> inverse(16);
    for (std::size_t t = 0; t < 16; ++t)
      inverse[t] = t == 3 ? 0.0f : 20.0f + 10.0f * static_cast<float>(t);  // many codes are clamped
    std::vector<std::byte> keys(16 * dim + 1, std::byte{0x77});
    std::vector<std::byte> values(4 * dim + 1, std::byte{0x77});
    PackInt8Keys(rows.data(), inverse.data(), dim, keys.data());
    PackInt8Values(rows.data(), inverse.data(), dim, values.data());
    for (std::size_t t = 0; t < 16; ++t) {
      for (std::size_t d = 0; d < dim; ++d) {
        const int expected = reference::Int8Code(rows[t * dim + d], inverse[t]);
        ASSERT_EQ(reference::CodeAt(keys.data(), reference::Int8KeyOffset(t, d, dim)), expected) << t << " " << d;
        if (t < 4) {
          ASSERT_EQ(reference::CodeAt(values.data(), reference::Int8ValueOffset(t, d, dim)), expected) << t << " " << d;
        }
      }
    }
    EXPECT_EQ(keys.back(), std::byte{0x77});
    EXPECT_EQ(values.back(), std::byte{0x77});
  }
}

TEST_P(Int8Test, RoundsRowsTo15Bits) {
  for (const std::size_t n : {4, 8, 100, 1024}) {
    auto x = Gaussian(n, n);
    x[n / 2] = -7.5f;
    std::vector<std::int16_t> integers(n);
    const Int16Row row = RoundToInt16(x.data(), n, integers.data());
    float step;
    const auto expected = reference::Int16Integers(x.data(), n, &step);
    EXPECT_EQ(row.step, step);
    int sum = 0;
    const std::size_t order[] = {0, 2, 1, 3};
    for (std::size_t i = 0; i < n; ++i) {
      EXPECT_EQ(integers[i], expected[i / 4 * 4 + order[i % 4]]) << i;
      sum += expected[i];
    }
    EXPECT_EQ(row.total, sum);
  }
  // Zeros, and numbers so small that their inverse is infinite.
  for (const float tiny : {0.0f, 1e-42f, 1e-38f, 9e-31f}) {
    std::vector<float> x(16, 0.0f);
    x[3] = tiny;
    std::vector<std::int16_t> integers(16, 5);
    const Int16Row row = RoundToInt16(x.data(), 16, integers.data());
    EXPECT_EQ(row.step, 0.0f);
    EXPECT_EQ(row.total, 0);
    EXPECT_EQ(integers, std::vector<std::int16_t>(16, 0));
  }
}

/// Codes, then scales.
GuardedBytes RandomBlock(std::size_t tokens, std::size_t dim) {
  const auto codes = RandomCodes(tokens * dim);
  const auto scales = RandomScales(tokens);
  GuardedBytes block(tokens * dim + tokens * sizeof(scales[0]));
  std::memcpy(block.data(), codes.data(), codes.size());
  std::memcpy(block.data() + codes.size(), scales.data(), tokens * sizeof(scales[0]));
  return block;
}

/// Queries as ScoreInt8 wants them.
GuardedBytes Prepared(const std::vector<float>& queries, std::size_t n, std::size_t dim) {
  GuardedBytes prepared(Int8PreparedBytes(n, dim));
  auto* rows = reinterpret_cast<Int16Row*>(prepared.data());
  auto* integers = reinterpret_cast<std::int16_t*>(rows + n);
  for (std::size_t i = 0; i < n; ++i) rows[i] = RoundToInt16(queries.data() + i * dim, dim, integers + i * dim);
  return prepared;
}

TEST_P(Int8Test, ScoresAreTheReferencesBits) {
  for (const std::size_t dim : {8, 16, 24, 64, 72, 128, 256}) {
    for (const std::size_t tokens : {16, 32, 48, 128}) {
      GuardedBytes block = RandomBlock(tokens, dim);
      const auto scales = RandomScales(tokens);
      for (const auto& [n, tiles] : kQueryCounts) {
        AllowTiles(tiles);
        const auto queries = Gaussian(n * dim, n + dim);
        GuardedBytes prepared = Prepared(queries, n, dim);
        const std::size_t stride = tokens + 1;
        std::vector<float> logits(n * stride, 3.5f);
        GuardedBytes scratch(ByteScoreScratchBytes(n, dim));
        ScoreInt8(
            {dim, tokens, block.raw(), prepared.raw(), n, logits.data(), stride, scratch.raw(), block.raw(), tokens * dim});
        ASSERT_TRUE(scratch.Intact());
        for (std::size_t i = 0; i < n; ++i) {
          for (std::size_t t = 0; t < tokens; ++t) {
            ASSERT_EQ(logits[i * stride + t],
                      reference::Int8Logit(queries.data() + i * dim, block.raw(), scales.data(), t, dim));
          }
          ASSERT_EQ(logits[i * stride + tokens], 3.5f);
        }
      }
    }
  }
}

TEST_P(Int8Test, SumsAreTheReferencesBits) {
  for (const std::size_t dim : {8, 16, 24, 64, 72, 128}) {
    for (const std::size_t tokens : {16, 48, 128, 256, 384}) {
      GuardedBytes block = RandomBlock(tokens, dim);
      const auto scales = RandomScales(tokens);
      for (const auto& [n, tiles] : kQueryCounts) {
        AllowTiles(tiles);
        const std::size_t stride = tokens + 5;
        auto weights = Gaussian(n * stride, n + dim);
        for (float& w : weights) w = w < 0 ? 0.0f : w;
        if (n > 2) std::fill_n(&weights[2 * stride], tokens, 0.0f);
        std::vector<float> products(n * tokens);
        for (std::size_t i = 0; i < n; ++i) {
          for (std::size_t t = 0; t < tokens; ++t)
            products[i * tokens + t] = weights[i * stride + t] * Ufloat16ToFloat(scales[t]);
        }
        std::vector<float> acc(n * (dim + 1), 0.25f);
        GuardedBytes scratch(ByteAccumulateScratchBytes(n, tokens));
        AccumulateInt8(
            {dim, tokens, block.raw(), weights.data(), stride, n, acc.data(), dim + 1, scratch.raw(), block.raw(), 5000});
        ASSERT_TRUE(scratch.Intact());
        for (std::size_t i = 0; i < n; ++i) {
          for (std::size_t d = 0; d < dim; ++d) {
            ASSERT_EQ(acc[i * (dim + 1) + d],
                      0.25f + reference::Int8Sum(products.data() + i * tokens, block.raw(), tokens, d, dim))
                << d;
          }
          ASSERT_EQ(acc[i * (dim + 1) + dim], 0.25f);
        }
      }
    }
  }
}

TEST_P(Int8Test, LargestSumsDoNotOverflow) {
  constexpr std::size_t kDim = 1024;
  constexpr std::size_t kTokens = 1024;
  const auto fill = [](std::size_t tokens, std::size_t dim, std::uint8_t code) {
    GuardedBytes block(tokens * dim + 2 * tokens);
    std::fill_n(block.data(), tokens * dim, code);
    const std::vector<std::uint16_t> scales(tokens, FloatToUfloat16(1.0f));
    std::memcpy(block.data() + tokens * dim, scales.data(), 2 * tokens);
    return block;
  };
  GuardedBytes keys = fill(16, kDim, 1);  // code -127
  GuardedBytes prepared = Prepared(std::vector<float>(kDim, 1.0f), 1, kDim);
  std::vector<float> logits(16);
  ScoreInt8({kDim, 16, keys.raw(), prepared.raw(), 1, logits.data(), 16, nullptr, nullptr, 0});
  for (const float x : logits) EXPECT_FLOAT_EQ(x, -127.0f * kDim);
  GuardedBytes values = fill(kTokens, 8, 255);
  const std::vector<float> weights(kTokens, 1.0f);
  std::vector<float> acc(8, 0.0f);
  GuardedBytes scratch(ByteAccumulateScratchBytes(1, kTokens));
  AccumulateInt8({8, kTokens, values.raw(), weights.data(), kTokens, 1, acc.data(), 8, scratch.raw(), nullptr, 0});
  for (const float x : acc) EXPECT_FLOAT_EQ(x, 127.0f * kTokens);
}

}  // namespace
}  // namespace kvant::kernels
