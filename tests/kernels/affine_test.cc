#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <hwy/tests/hwy_gtest.h>

#include "kernels/affine/attend.h"
#include "kernels/affine/encode.h"
#include "kernels/affine/float16.h"
#include "kernels/affine/reference/affine.h"
#include "kernels/raw/reference/rows.h"
#include "tests/kernels/lloyd_inputs.h"

namespace kvant::kernels {
namespace {

constexpr std::uint32_t kSeed = 71;

std::string Name(const AffineShape& s) {
  return (s.layout == LloydLayout::kKeys ? "keys bits " : "values bits ") + std::to_string(s.bits) + " group " +
         std::to_string(s.group) + " dim " + std::to_string(s.dim) + " tokens " + std::to_string(s.tokens);
}

std::vector<AffineShape> Shapes(LloydLayout layout) {
  std::vector<AffineShape> shapes;
  for (std::uint32_t bits = 1; bits <= 8; ++bits) {
    for (const std::size_t group : {32, 64, 128}) {
      for (const std::size_t dim : {8, 64, 72, 80, 128}) {
        const std::size_t tokens = std::max<std::size_t>(16 * AffineFields(bits), group);
        const std::size_t width = layout == LloydLayout::kKeys ? group : std::min(group, dim);
        shapes.push_back({layout, bits, width, dim, tokens});
        if (dim == 72 && bits != 3) shapes.push_back({layout, bits, width, dim, 3 * tokens});
      }
    }
  }
  return shapes;
}

GuardedBytes Encoded(const AffineShape& shape, const std::vector<float>& rows) {
  GuardedBytes block(shape.bytes()), scratch(AffineEncodeScratchBytes(shape));
  ClearAffineCodes(shape, block.raw());
  for (std::size_t first = 0; first < shape.tokens; first += AffineRowsAtOnce(shape)) {
    EncodeAffine(shape, rows.data() + first * shape.dim, first, block.raw(), scratch.raw());
  }
  EXPECT_TRUE(block.Intact() && scratch.Intact()) << Name(shape);
  return block;
}

TEST(AffineFloat16Test, ReadsEveryNumber) {
  for (std::uint32_t half = 0; half < 0x10000u; ++half) {
    const double expected = reference::NumberOf(static_cast<std::uint16_t>(half), 10);
    const float read = F16ToFloat(static_cast<std::uint16_t>(half));
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(read)) << half;
    } else {
      EXPECT_EQ(static_cast<double>(read), expected) << half;
    }
  }
}

TEST(AffineFloat16Test, RoundsDown) {
  const auto next_above = [](std::uint16_t half) {  // in value; of -0 and 0 the first is never made
    return static_cast<std::uint16_t>(half == 0x8001u ? 0 : (half & 0x8000u) != 0 ? half - 1 : half + 1);
  };
  const auto check = [&](float x) {
    const std::uint16_t half = FloatToF16Down(x);
    EXPECT_NE(half, 0x8000u);
    EXPECT_LE(F16ToFloat(half), x) << x;
    EXPECT_GT(F16ToFloat(next_above(half)), x) << x;
  };
  for (std::uint32_t half = 0; half < 0x7C00u; ++half) {  // every number itself, and what lies just beside it
    for (const float sign : {1.0f, -1.0f}) {
      const float x = sign * F16ToFloat(static_cast<std::uint16_t>(half));
      check(x);
      if (half < 0x7BFFu) {
        check(std::nextafter(x, 1e9f));
        check(std::nextafter(x, -1e9f));
      }
    }
  }
  std::mt19937 random(kSeed);
  for (int i = 0; i < 100000; ++i) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (std::fabs(x) <= kF16Max) check(x);
  }
}

TEST(AffineEncodeTest, EveryErrorIsAtMostHalfAStep) {
  std::mt19937 random(kSeed);
  for (const LloydLayout layout : {LloydLayout::kKeys, LloydLayout::kValues}) {
    for (const AffineShape& shape : Shapes(layout)) {
      auto rows = RandomNormal(shape.tokens * shape.dim, random);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const std::size_t d = i % shape.dim;
        if (d == 1) rows[i] += 921.0f;
        if (d == 2) rows[i] *= 100.0f;
        if (d == 3) rows[i] = std::fabs(rows[i]) * 1e-20f;  // steps below the smallest ufloat16
        if (d == 4) rows[i] = std::fabs(rows[i]) * 1e-11f;  // among steps that have few digits
        if (d == 5) rows[i] = i % 2 == 0 ? kF16Max : -kF16Max;
      }
      GuardedBytes block = Encoded(shape, rows);
      for (std::size_t i = 0; i < rows.size(); ++i) {
        const std::size_t t = i / shape.dim, d = i % shape.dim;
        const bool keys = layout == LloydLayout::kKeys;
        const auto group = reference::AffineGroupAt(shape, block.raw(), (keys ? t : d) / shape.group, keys ? d : t);
        const auto code = AffineCodeAt(shape, block.data(), t, d);
        const double read = static_cast<double>(group.zero) + static_cast<double>(group.step) * code;
        // What the encoder's floats may add: three roundings of the distance from zero in steps.
        const double slack = 1e-6 * static_cast<double>(rows[i] - group.zero);
        ASSERT_LE(std::fabs(rows[i] - read), 0.5 * static_cast<double>(group.step) + slack)
            << Name(shape) << " at " << t << " " << d;
      }
    }
  }
}

TEST(AffineEncodeTest, EqualNumbersAreExact) {
  for (const LloydLayout layout : {LloydLayout::kKeys, LloydLayout::kValues}) {
    const AffineShape shape{layout, 2, 32, 64, 64};
    for (const float number : {0.0f, -0.0f, 1.0f, -2.5f, 65504.0f, -65504.0f, 0x1p-24f}) {
      GuardedBytes block = Encoded(shape, std::vector<float>(64 * 64, number));
      for (std::size_t line = 0; line < 64; ++line) {
        const auto group = reference::AffineGroupAt(shape, block.raw(), 1, line);
        EXPECT_EQ(group.step, 0.0f);
        EXPECT_EQ(group.zero, number);
        EXPECT_FALSE(std::signbit(group.zero) && number == 0.0f);
      }
      EXPECT_EQ(AffineCodeAt(shape, block.data(), 33, 40), 0u);
    }
  }
}

class AffineTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(AffineTest);

TEST_P(AffineTest, ScoresAreTheReferencesBits) {
  std::mt19937 random(kSeed);
  for (const AffineShape& shape : Shapes(LloydLayout::kKeys)) {
    auto rows = RandomNormal(shape.tokens * shape.dim, random);
    for (std::size_t t = 0; t < shape.tokens; ++t) rows[t * shape.dim + 1] += 300.0f;
    GuardedBytes block = Encoded(shape, rows);
    const std::size_t floats = AffineQueryFloats(shape.dim), stride = shape.tokens + 1;
    for (const auto& [n, tiles] : kQueryCounts) {
      if (n > 11 && shape.dim != 64) continue;  // the reference is slow
      AllowTiles(tiles);
      std::vector<float> queries(n * floats, 0.0f);
      for (std::size_t i = 0; i < n; ++i) {
        const auto query = RandomNormal(shape.dim, random);
        std::copy(query.begin(), query.end(), queries.begin() + static_cast<std::ptrdiff_t>(i * floats));
      }
      if (n > 2) std::fill_n(queries.begin() + static_cast<std::ptrdiff_t>(floats), floats, 0.0f);
      std::vector<float> logits(n * stride, 3.5f);
      GuardedBytes prepared(queries.size() * sizeof(float)), scratch(AffineScoreScratchBytes(n, shape.dim));
      if (n > 0) std::memcpy(prepared.data(), queries.data(), queries.size() * sizeof(float));
      ScoreAffine(shape, {shape.dim, shape.tokens, block.raw(), prepared.raw(), n, logits.data(), stride, scratch.raw(),
                          block.raw(), shape.bytes()});
      ASSERT_TRUE(scratch.Intact());
      for (std::size_t i = 0; i<n; i += n> 16 ? 5 : 1) {
        for (std::size_t t = 0; t < shape.tokens; t += 7) {
          ASSERT_EQ(logits[i * stride + t], reference::AffineLogit(shape, block.raw(), &queries[i * floats], t))
              << Name(shape) << " query " << i << " of " << n << " token " << t;
        }
        ASSERT_EQ(logits[i * stride + shape.tokens], 3.5f);
      }
    }
  }
}

TEST_P(AffineTest, SumsAreTheReferencesBits) {
  std::mt19937 random(kSeed);
  for (const AffineShape& shape : Shapes(LloydLayout::kValues)) {
    GuardedBytes block = Encoded(shape, RandomNormal(shape.tokens * shape.dim, random));
    const std::size_t floats = AffineSumFloats(shape), stride = shape.tokens + 3;
    for (const auto& [n, tiles] : kQueryCounts) {
      if (n > 11 && shape.dim != 64) continue;
      AllowTiles(tiles);
      auto weights = RandomNormal(n * stride, random);
      for (float& w : weights) w = w < 0 ? 0.0f : w;
      if (n > 2) std::fill_n(weights.begin() + static_cast<std::ptrdiff_t>(2 * stride), shape.tokens, 0.0f);
      std::vector<float> acc(n * (floats + 1), 0.25f);
      GuardedBytes scratch(AffineAccumulateScratchBytes(n, shape.tokens));
      AccumulateAffine(shape, {shape.dim, shape.tokens, block.raw(), weights.data(), stride, n, acc.data(), floats + 1,
                               scratch.raw(), block.raw(), shape.bytes()});
      ASSERT_TRUE(scratch.Intact());
      for (std::size_t i = 0; i<n; i += n> 16 ? 5 : 1) {
        std::vector<float> expected(floats + 1, 0.25f);
        reference::AffineAccumulate(shape, block.raw(), &weights[i * stride], expected.data());
        for (std::size_t k = 0; k <= floats; ++k)
          ASSERT_EQ(acc[i * (floats + 1) + k], expected[k]) << Name(shape) << " query " << i << " of " << n << " float " << k;
      }
    }
  }
}

TEST_P(AffineTest, AnyBytesAreRead) {
  // What lies in a block may be anything: nothing is looked up with it.
  for (std::uint32_t bits = 1; bits <= 8; ++bits) {
    for (const LloydLayout layout : {LloydLayout::kKeys, LloydLayout::kValues}) {
      const AffineShape shape{layout, bits, 32, 72, 128};
      GuardedBytes block(shape.bytes());
      std::fill_n(block.data(), shape.bytes(), std::uint8_t{0xFF});
      const std::vector<float> ones(4 * 128, 1.0f);
      std::vector<float> out(4 * 512, 0.0f);
      GuardedBytes score(AffineScoreScratchBytes(4, 72)), sum(AffineAccumulateScratchBytes(4, 128));
      if (layout == LloydLayout::kKeys) {
        ScoreAffine(shape, {72, 128, block.raw(), reinterpret_cast<const std::byte*>(ones.data()), 4, out.data(), 128,
                            score.raw(), nullptr, 0});
      } else {
        AccumulateAffine(shape, {72, 128, block.raw(), ones.data(), 128, 4, out.data(), 512, sum.raw(), nullptr, 0});
      }
      EXPECT_TRUE(score.Intact() && sum.Intact());
    }
  }
}

TEST_P(AffineTest, LargestSumsDoNotOverflow) {
  const AffineShape keys{LloydLayout::kKeys, 8, 32, 1024, 32};
  GuardedBytes block(keys.bytes());
  std::fill_n(block.data(), keys.codes_bytes(), std::uint8_t{0});  // code 0: number -128
  std::vector<std::uint16_t> side(2 * keys.dim, 0);
  std::fill_n(side.begin(), keys.dim, FloatToUfloat16(1.0f));
  std::memcpy(block.data() + keys.steps_at(0), side.data(), side.size() * 2);
  const std::vector<float> ones(1024, 1.0f);
  std::vector<float> logits(32);
  GuardedBytes scratch(AffineScoreScratchBytes(1, 1024));
  ScoreAffine(keys, {1024, 32, block.raw(), reinterpret_cast<const std::byte*>(ones.data()), 1, logits.data(), 32,
                     scratch.raw(), nullptr, 0});
  for (const float x : logits) EXPECT_NEAR(x, 0.0f, 0.05f);  // -128 * 1024 and the centres' 128 * 1024
}

}  // namespace
}  // namespace kvant::kernels
