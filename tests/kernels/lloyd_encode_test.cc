#include "kernels/lloyd/encode.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "hwy/tests/hwy_gtest.h"
#include "kernels/lloyd/reference/encode.h"
#include "tests/kernels/lloyd_inputs.h"

namespace kvant::kernels {
namespace {

constexpr std::uint32_t kSeed = 11;

class LloydEncodeTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(LloydEncodeTest);

std::vector<std::uint8_t> Encode(const LloydEncoding& how, const RowsView& rows, std::size_t* row) {
  GuardedBytes block(LloydBlockBytes(how.table->bits, how.shape.dim, rows.count));
  GuardedBytes scratch(LloydEncodeScratchBytes(how.shape.dim));
  *row = LloydEncode(how, rows, block.data(), scratch.raw());
  EXPECT_TRUE(scratch.Intact());
  EXPECT_TRUE(block.Intact());
  return block.Copy();
}

std::vector<std::uint8_t> EncodeByReference(const LloydEncoding& how, const RowsView& rows) {
  std::vector<std::uint8_t> block(LloydBlockBytes(how.table->bits, how.shape.dim, rows.count));
  EXPECT_EQ(reference::LloydEncode(how, rows, block.data()), rows.count);
  return block;
}

TEST_P(LloydEncodeTest, BytesAreTheScalarTwins) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {8u, 32u, 40u, 64u, 72u, 80u, 96u, 128u, 256u, 512u}) {
    const auto shape = HadamardShape::For(dim);
    const std::size_t rounds = 1 + random() % 5;
    const auto signs = RandomSigns(shape, rounds, random);
    const auto mean = RandomNormal(dim, random);
    for (const std::uint32_t bits : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u}) {
      for (const LloydLayout layout : {LloydLayout::kKeys, LloydLayout::kValues}) {
        const std::size_t tokens = LloydBlockMultiple(bits) * (dim < 128 ? 2 : 1);
        const auto values = PaddedRows(tokens, dim, dim + 3, random);
        const RowsView rows{values.data(), ElementType::kF32, tokens, dim, dim + 3};
        const auto scale = static_cast<LloydScale>(1 + random() % 4);
        const LloydEncoding how{
            FindLloydTable(bits), shape, rounds, signs.data(), random() % 2 == 0 ? nullptr : mean.data(), layout, scale};
        std::size_t row = 0;
        ASSERT_EQ(Encode(how, rows, &row), EncodeByReference(how, rows))
            << "dim " << dim << " bits " << bits << " rounds " << rounds << " seed " << kSeed;
        ASSERT_EQ(row, tokens);
      }
    }
  }
}

/// Rows that are one number before or after any of the rounds: the largest numbers that integers meet, and sums that saturate.
std::vector<float> PeakedRows(const HadamardShape& shape, std::size_t rounds, const std::vector<std::uint32_t>& signs,
                              std::size_t count, std::mt19937& random) {
  std::vector<float> rows(count * shape.dim);
  for (std::size_t t = 0; t < count; ++t) {
    float* row = &rows[t * shape.dim];
    row[random() % shape.dim] = random() % 2 == 0 ? 1.0f : -1.0f;
    reference::HadamardInverse(shape, t % (rounds + 1), signs.data(), row);
  }
  return rows;
}

TEST_P(LloydEncodeTest, RowsThatFillOneNumberGiveTheScalarTwinsBytesAndReadBack) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {64u, 128u, 256u}) {
    for (const std::size_t rounds : {2u, 3u, 4u, 6u}) {
      const auto shape = HadamardShape::For(dim);
      const auto signs = RandomSigns(shape, rounds, random);
      const auto values = PeakedRows(shape, rounds, signs, 64, random);
      const RowsView rows{values.data(), ElementType::kF32, 64, dim, dim};
      for (const LloydLayout layout : {LloydLayout::kKeys, LloydLayout::kValues}) {
        const LloydEncoding how{FindLloydTable(4), shape, rounds, signs.data(), nullptr, layout, LloydScale::kUnbiased};
        std::size_t row = 0;
        const auto block = Encode(how, rows, &row);
        ASSERT_EQ(block, EncodeByReference(how, rows)) << "dim " << dim << " rounds " << rounds << " seed " << kSeed;
        ASSERT_EQ(row, 64u);
        for (std::size_t t = 0; t < 64; ++t) {
          // Whatever the codes, an unbiased scale makes <x, x'> = |x|^2, but for rounding: half a step per number and round.
          std::vector<float> rotated(&values[t * dim], &values[t * dim] + dim);
          reference::Hadamard(shape, rounds, signs.data(), rotated.data());
          double dot = 0.0, square = 0.0;
          for (std::size_t i = 0; i < dim; ++i) {
            const auto index = LloydIndexAt(layout, 4, dim, 64, block.data(), t, i);
            dot += static_cast<double>(rotated[i]) * how.table->Centroid(index);
            square += static_cast<double>(values[t * dim + i]) * values[t * dim + i];
          }
          const double scale = reference::LloydScaleAt(4, dim, 64, block.data(), t) / (how.table->unit * std::sqrt(dim));
          EXPECT_NEAR(dot / shape.gain(rounds) * scale / square, 1.0, 1e-2)
              << "dim " << dim << " rounds " << rounds << " row " << t;
        }
      }
    }
  }
}

TEST_P(LloydEncodeTest, HalfAndBrainRowsGiveTheBytesOfTheirNumbers) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {64u, 80u, 128u}) {
    const auto shape = HadamardShape::For(dim);
    const auto signs = RandomSigns(shape, 3, random);
    for (const ElementType type : {ElementType::kF16, ElementType::kBF16}) {
      std::vector<std::uint16_t> values(32 * dim);
      for (auto& value : values) value = static_cast<std::uint16_t>((random() & 0x83FFu) | 0x3C00u);
      const RowsView rows{values.data(), type, 32, dim, dim};
      const LloydEncoding how{FindLloydTable(4), shape, 3, signs.data(), nullptr, LloydLayout::kKeys, LloydScale::kUnbiased};
      std::size_t row = 0;
      ASSERT_EQ(Encode(how, rows, &row), EncodeByReference(how, rows)) << "dim " << dim << " seed " << kSeed;
    }
  }
}

TEST_P(LloydEncodeTest, NamesTheFirstRowThatCannotBeStored) {
  std::mt19937 random(kSeed);
  const float bad_numbers[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                               -std::numeric_limits<float>::infinity(), 3e38f, 1e10f};
  for (const std::uint32_t dim : {64u, 72u}) {
    const auto shape = HadamardShape::For(dim);
    const auto signs = RandomSigns(shape, 3, random);
    for (const std::uint32_t bits : {1u, 2u, 3u, 4u}) {
      const LloydLayout layout = bits % 2 == 0 ? LloydLayout::kValues : LloydLayout::kKeys;
      const LloydEncoding how{FindLloydTable(bits), shape, 3, signs.data(), nullptr, layout, LloydScale::kLeastSquares};
      for (const float bad : bad_numbers) {
        for (const std::size_t at : {0u, 5u, 15u, 16u, 63u, 100u, 127u}) {
          auto values = RandomNormal(128 * dim, random);
          values[at * dim + random() % dim] = bad;
          for (std::size_t later = at; later < 128; later += 1 + random() % 16) values[later * dim] = bad;
          std::size_t row = 0;
          Encode(how, {values.data(), ElementType::kF32, 128, dim, dim}, &row);
          EXPECT_EQ(row, at) << bad << " bits " << bits << " dim " << dim << " seed " << kSeed;
        }
      }
    }
  }
}

TEST_P(LloydEncodeTest, HoldsRowsFarBeyondHalfPrecisionAndZeroesTinyOnes) {
  std::mt19937 random(kSeed);
  const auto shape = HadamardShape::For(128);
  const auto signs = RandomSigns(shape, 3, random);
  auto values = RandomNormal(128 * 128, random);
  const float factors[] = {0.0f, -0.0f, 1e-45f, 1e-30f, 1e-20f, 1e-9f, 1.0f, 65504.0f, 1e6f, 3e8f};
  for (std::size_t t = 0; t < 128; ++t) {
    for (std::size_t i = 0; i < 128; ++i) values[t * 128 + i] *= factors[t % std::size(factors)];
  }
  const RowsView rows{values.data(), ElementType::kF32, 128, 128, 128};
  for (const std::uint32_t bits : {1u, 2u, 3u, 4u, 5u, 6u, 7u, 8u}) {
    const LloydEncoding how{FindLloydTable(bits), shape, 3, signs.data(), nullptr, LloydLayout::kKeys, LloydScale::kUnbiased};
    std::size_t row = 0;
    const auto block = Encode(how, rows, &row);
    ASSERT_EQ(row, 128u);
    ASSERT_EQ(block, EncodeByReference(how, rows)) << "bits " << bits << " seed " << kSeed;
    for (std::size_t t = 0; t < 128; ++t) {
      const float factor = factors[t % std::size(factors)];
      const float scale = reference::LloydScaleAt(bits, 128, 128, block.data(), t);
      if (factor < 1e-19f) {
        EXPECT_EQ(scale, 0.0f);
      } else {
        // The norm is factor * sqrt(128) within a factor of 1.3, and the unbiased scale at most 1.4 times as large at 1 bit.
        EXPECT_GT(scale, 0.7f * factor * 11.3f);
        EXPECT_LT(scale, 2.0f * factor * 11.3f);
      }
    }
  }
}

}  // namespace
}  // namespace kvant::kernels
