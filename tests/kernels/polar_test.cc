// The polar kernels against their scalar twin, on every target.
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <hwy/tests/hwy_gtest.h>

#include "kernels/polar/decode.h"
#include "kernels/polar/encode.h"
#include "kernels/polar/reference/polar.h"
#include "kernels/polar/score.h"
#include "tests/kernels/lloyd_inputs.h"

namespace kvant::kernels {
namespace {

std::vector<PolarForm> Forms() {
  std::vector<PolarForm> forms;
  for (const std::uint32_t first : {2U, 3U, 4U, 5U}) {
    for (const std::uint32_t others : {1U, 2U, 3U, 4U}) {
      for (const std::uint32_t dim : {16U, 64U, 256U}) forms.push_back({dim, true, first, others});
      for (const std::uint32_t dim : {16U, 48U, 80U}) forms.push_back({dim, false, first, others});
    }
  }
  forms.push_back({1024, true, 4, 2});
  forms.push_back({1024, false, 5, 3});
  return forms;
}

std::string NameOf(const PolarForm& form) {
  return "dim " + std::to_string(form.dim) + (form.full ? " full " : " 4 levels ") + std::to_string(form.first) + "/" +
         std::to_string(form.others);
}

/// A form with a random rotation of 3 rounds.
struct Rotated {
  PolarForm form;
  HadamardShape shape;
  std::vector<std::uint32_t> signs;
  MapTables tables;
  HadamardMap map;

  Rotated(const PolarForm& of, std::mt19937& random)
      : form(of),
        shape(HadamardShape::For(of.dim)),
        signs(RandomSigns(shape, 3, random)),
        map(MapOf(shape, 3, signs, tables)) {}
};

class PolarTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(PolarTest);

constexpr std::size_t kTokens = 48;

/// Rows of many sizes: zeros, tiny, huge, of one number, of whole groups of zeros.
std::vector<float> Rows(std::size_t dim, std::size_t stride, std::mt19937& random) {
  std::vector<float> rows = PaddedRows(kTokens, dim, stride, random);
  for (std::size_t k = 0; k < dim; ++k) {
    rows[k] = 0.0F;
    rows[stride + k] *= 1e-20F;
    rows[2 * stride + k] *= 1e7F;
    if (k != 5) rows[3 * stride + k] = 0.0F;
    rows[4 * stride + k] = -2.5F;
  }
  return rows;
}

TEST_P(PolarTest, EncodesAsTheTwin) {
  std::mt19937 random(3);
  for (const PolarForm& form : Forms()) {
    SCOPED_TRACE(NameOf(form));
    const Rotated rotated(form, random);
    const std::size_t stride = form.dim + 3;
    const std::vector<float> rows = Rows(form.dim, stride, random);
    GuardedBytes block(form.block_bytes(kTokens)), scratch(RotationScratchBytes(form.dim));
    const PolarRadius radius = form.others % 2 == 0 ? PolarRadius::kUnbiased : PolarRadius::kNorm;
    const PolarEncoding how{form, rotated.map, radius};
    ASSERT_EQ(PolarEncode(how, {rows.data(), ElementType::kF32, kTokens, form.dim, stride}, block.data(), scratch.raw()),
              kTokens);
    EXPECT_TRUE(block.Intact() && scratch.Intact());
    for (std::size_t t = 0; t < kTokens; ++t) {
      reference::PolarRow expected;
      ASSERT_TRUE(reference::PolarEncodeRow(how, {&rows[t * stride], &rows[t * stride] + form.dim}, expected));
      const reference::PolarRow stored = reference::PolarRowAt(form, block.data(), kTokens, t);
      ASSERT_EQ(stored.codes, expected.codes) << "row " << t;
      ASSERT_EQ(stored.radii, expected.radii) << "row " << t;
    }
  }
}

TEST_P(PolarTest, NamesTheFirstRowItCannotHold) {
  std::mt19937 random(4);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e20F, 9e9F}) {
    for (const std::size_t at : {0U, 17U, 31U}) {
      for (const bool full : {false, true}) {
        const Rotated rotated({64, full, 4, 2}, random);
        std::vector<float> rows = RandomNormal(32 * 64, random);
        rows[at * 64 + 63] = bad;
        rows[31 * 64] = bad;
        GuardedBytes block(rotated.form.block_bytes(32)), scratch(RotationScratchBytes(64));
        EXPECT_EQ(
            PolarEncode({rotated.form, rotated.map}, {rows.data(), ElementType::kF32, 32, 64, 64}, block.data(), scratch.raw()),
            at)
            << bad;
      }
    }
  }
}

/// Blocks of any bytes: what is stored may be hostile.
std::vector<std::uint8_t> AnyBlock(const PolarForm& form, std::mt19937& random) {
  std::vector<std::uint8_t> block(form.block_bytes(kTokens));
  for (auto& byte : block) byte = static_cast<std::uint8_t>(random());
  return block;
}

TEST_P(PolarTest, ScoresAsTheTwinBitForBit) {
  std::mt19937 random(5);
  for (const PolarForm& form : Forms()) {
    const Rotated rotated(form, random);
    const std::vector<std::uint8_t> bytes = AnyBlock(form, random);
    GuardedBytes block(bytes.size());
    std::copy(bytes.begin(), bytes.end(), block.data());
    std::vector<reference::PolarRow> rows;
    for (std::size_t t = 0; t < kTokens; ++t) rows.push_back(reference::PolarRowAt(form, bytes.data(), kTokens, t));
    const std::size_t query_stride = form.dim + 5, stride = kTokens + 1;
    for (const std::size_t n : {0U, 1U, 2U, 3U, 4U, 7U, 19U}) {
      SCOPED_TRACE(NameOf(form) + ", queries " + std::to_string(n));
      const std::vector<float> queries = PaddedRows(n, form.dim, query_stride, random);
      GuardedBytes prepared(PolarPreparedBytes(form, n)), scratch(PolarPrepareScratchBytes(form));
      PolarPrepareQueries(form, rotated.map, queries.data(), query_stride, n, prepared.raw(), scratch.raw());
      EXPECT_TRUE(prepared.Intact() && scratch.Intact());
      std::vector<float> logits(n * stride + 1, -7.0F), sums(n * stride + 1, 2.0F);
      PolarScoreArgs args{.form = form, .tokens = kTokens, .block = block.data(), .prepared = prepared.raw(), .queries = n};
      args.stride = stride;
      args.logits = logits.data();
      PolarScore(args);
      args.logits = sums.data();
      args.add = true;
      args.next = block.raw();
      args.next_bytes = bytes.size();
      PolarScore(args);
      for (std::size_t i = 0; i < n; ++i) {
        std::vector<float> query(&queries[i * query_stride], &queries[i * query_stride] + form.dim);
        reference::Hadamard(rotated.shape, 3, rotated.signs.data(), query.data());
        for (std::size_t t = 0; t < stride; ++t) {
          const float expected = t < kTokens ? reference::PolarScoreRow(form, rows[t], query, rotated.shape.gain(3)) : -7.0F;
          ASSERT_EQ(logits[i * stride + t], expected) << "query " << i << ", token " << t;
          ASSERT_EQ(sums[i * stride + t], t < kTokens ? 2.0F + expected : 2.0F);
        }
      }
      EXPECT_EQ(logits.back(), -7.0F);
    }
  }
}

TEST(PolarDecodeTest, DecodesAsTheTwin) {
  std::mt19937 random(6);
  for (const PolarForm& form : Forms()) {
    SCOPED_TRACE(NameOf(form));
    const std::vector<std::uint8_t> block = AnyBlock(form, random);
    std::vector<float> row(form.dim);
    for (std::size_t t = 0; t < kTokens; ++t) {
      PolarDecodeRow(form, block.data(), kTokens, t, row.data());
      const auto expected = reference::PolarDecode(form, reference::PolarRowAt(form, block.data(), kTokens, t));
      for (std::size_t i = 0; i < form.dim; ++i) {
        ASSERT_NEAR(row[i], expected[i], 2e-6 * std::fabs(expected[i]) + 1e-30) << t << " " << i;
      }
    }
  }
}

TEST(PolarLayoutTest, TakesExactlyItsBits) {
  for (const PolarForm& form : Forms()) {
    const std::size_t angles = form.full ? form.dim / 2 - 1 : form.dim / 16 * 7;
    EXPECT_EQ(8 * form.block_bytes(kTokens),
              kTokens * (form.dim / 2 * form.first + angles * form.others + 16 * (form.full ? 1 : form.dim / 16)));
  }
}

}  // namespace
}  // namespace kvant::kernels
