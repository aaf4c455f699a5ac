#include "kernels/vector/encode.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "hwy/tests/hwy_gtest.h"
#include "kernels/vector/reference/encode.h"
#include "tests/kernels/vector_inputs.h"

namespace kvant::kernels {
namespace {

constexpr std::uint32_t kSeed = 42;

class VectorEncodeTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(VectorEncodeTest);

std::vector<std::uint8_t> Encode(const VectorEncoding& how, const RowsView& rows, std::size_t* row) {
  GuardedBytes block(VectorBlockBytes(rows.dim, rows.count)), scratch(VectorEncodeScratchBytes(rows.dim));
  *row = VectorEncode(how, rows, block.data(), scratch.raw());
  EXPECT_TRUE(scratch.Intact() && block.Intact());
  return block.Copy();
}

TEST_P(VectorEncodeTest, BytesAreTheScalarTwins) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : kVectorTestDims) {
    const auto shape = HadamardShape::For(dim);
    const std::size_t rounds = 1 + random() % 4;
    const auto signs = RandomSigns(shape, rounds, random);
    auto smooth = RandomNormal(dim, random);
    for (auto& factor : smooth) factor = std::exp(factor);
    for (const bool gaussian : {true, false}) {
      const VectorCodebook codebook = gaussian ? GaussianCodebook() : RandomCodebook(random);
      for (const LloydLayout layout : {LloydLayout::kKeys, LloydLayout::kValues}) {
        const std::size_t tokens = 32;
        auto values = PaddedRows(tokens, dim, dim + 3, random);
        std::fill_n(values.begin() + 5 * (dim + 3), dim, 0.0f);    // a row of zeros
        std::fill_n(values.begin() + 6 * (dim + 3), dim, 1e-30f);  // one that counts as such
        values[7 * (dim + 3)] = 1e6f;                              // nearly a single number
        const RowsView rows{values.data(), ElementType::kF32, tokens, dim, dim + 3};
        const VectorEncoding how{&codebook,
                                 {shape, rounds, signs.data(), nullptr},
                                 random() % 2 == 0 ? nullptr : smooth.data(),
                                 layout,
                                 random() % 2 == 0 ? LloydScale::kUnbiased : LloydScale::kLeastSquares};
        std::size_t row = 0;
        const auto bytes = Encode(how, rows, &row);
        std::vector<std::uint8_t> expected(bytes.size());
        ASSERT_EQ(reference::VectorEncode(how, rows, expected.data()), tokens);
        ASSERT_EQ(row, tokens);
        ASSERT_EQ(bytes, expected) << "dim " << dim << " rounds " << rounds << " gaussian " << gaussian << " seed " << kSeed;
      }
    }
  }
}

TEST_P(VectorEncodeTest, RowsThatCannotBeStoredAreNamed) {
  std::mt19937 random(kSeed);
  constexpr std::uint32_t kDim = 64;
  const auto shape = HadamardShape::For(kDim);
  const auto signs = RandomSigns(shape, 3, random);
  const VectorEncoding how{&GaussianCodebook(), {shape, 3, signs.data(), nullptr}, nullptr};
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 3e38f, -1e10f}) {
    for (const std::size_t at : {0u, 17u, 31u}) {
      auto values = RandomNormal(32 * kDim, random);
      values[at * kDim + random() % kDim] = bad;
      std::size_t row = 0;
      Encode(how, {values.data(), ElementType::kF32, 32, kDim, kDim}, &row);
      EXPECT_EQ(row, at) << bad;
    }
  }
}

}  // namespace
}  // namespace kvant::kernels
