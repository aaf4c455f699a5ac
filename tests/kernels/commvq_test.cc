// Additive codes of complex pairs against their scalar twin, on every target, bit for bit.
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include <hwy/tests/hwy_gtest.h>

#include "kernels/commvq/commvq.h"
#include "kernels/commvq/reference/commvq.h"
#include "tests/kernels/lloyd_inputs.h"

namespace kvant::kernels {
namespace {

class CommVqKernelTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(CommVqKernelTest);

constexpr std::size_t kTokens = 32, kStages = 3;

/// Codewords of which sums have about norm 1, shorter from stage to stage, and places in another order than planar.
struct Book {
  std::size_t dim;
  std::vector<float> words;
  std::vector<std::uint16_t> place;

  Book(std::size_t of, std::mt19937& random) : dim(of), words(RandomNormal(kStages * kCommVqWords * of, random)), place(of) {
    for (std::size_t i = 0; i < words.size(); ++i) {
      words[i] *= .4F / std::sqrt(static_cast<float>(dim)) / static_cast<float>(1 + i / (kCommVqWords * dim));
    }
    for (std::size_t i = 0; i < dim; ++i) place[i] = static_cast<std::uint16_t>(dim - 1 - i);
  }
  [[nodiscard]] CommVqCodebook book() const { return {words.data(), kStages, dim / 2}; }
};

TEST_P(CommVqKernelTest, EncodesAndDecodesAsTheTwin) {
  std::mt19937 random(9);
  for (const std::size_t dim : {8U, 24U, 64U, 256U}) {
    const Book book(dim, random);
    const std::size_t stride = dim + 3;
    std::vector<float> rows = PaddedRows(kTokens, dim, stride, random);
    for (std::size_t k = 0; k < dim; ++k) {
      rows[k] = 0.0F;
      rows[stride + k] *= 1e-20F;
      rows[2 * stride + k] *= 1e7F;
      if (k != 5) rows[3 * stride + k] = 0.0F;
    }
    GuardedBytes block(CommVqBlockBytes(kStages, kTokens)), scratch(CommVqEncodeScratchBytes(dim, kTokens));
    ASSERT_EQ(CommVqEncode(book.book(), book.place.data(), {rows.data(), ElementType::kF32, kTokens, dim, stride}, block.data(),
                           scratch.raw()),
              kTokens);
    EXPECT_TRUE(block.Intact() && scratch.Intact());
    std::vector<float> planar(kTokens * dim + 1, -7.0F);
    CommVqDecode(book.book(), block.data(), kTokens, 3, kTokens - 3, planar.data() + 3 * dim);
    for (std::size_t t = 0; t < kTokens; ++t) {
      const reference::CommVqRow expected = reference::CommVqEncodeRow(book.book(), book.place.data(), &rows[t * stride]);
      std::uint16_t scale;
      std::memcpy(&scale, block.data() + kStages * CommVqStageBytes(kTokens) + t * sizeof(scale), sizeof(scale));
      ASSERT_EQ(scale, expected.scale) << dim << " row " << t;
      for (std::size_t r = 0; r < kStages; ++r) {
        const CommVqCode code = CommVqCodeAt(block.data(), kTokens, r, t);
        ASSERT_TRUE(code.a == expected.codes[r].a && code.b == expected.codes[r].b) << dim << " row " << t << " stage " << r;
      }
      const std::vector<float> back = reference::CommVqDecodeRow(book.book(), expected);
      for (std::size_t i = 0; i < dim; ++i) ASSERT_EQ(planar[t * dim + i], t < 3 ? -7.0F : back[i]) << dim << " row " << t;
    }
    EXPECT_EQ(planar.back(), -7.0F);
  }
}

TEST_P(CommVqKernelTest, NamesTheFirstRowItCannotHoldAndReadsAnyBytes) {
  std::mt19937 random(10);
  const Book book(64, random);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(), 1e20F, 5e9F}) {
    std::vector<float> rows = RandomNormal(kTokens * 64, random);
    rows[17 * 64 + 63] = rows[31 * 64] = bad;
    GuardedBytes block(CommVqBlockBytes(kStages, kTokens)), scratch(CommVqEncodeScratchBytes(64, kTokens));
    EXPECT_EQ(CommVqEncode(book.book(), book.place.data(), {rows.data(), ElementType::kF32, kTokens, 64, 64}, block.data(),
                           scratch.raw()),
              17U)
        << bad;
  }
  GuardedBytes block(CommVqBlockBytes(kStages, kTokens));
  for (std::size_t i = 0; i < CommVqBlockBytes(kStages, kTokens); ++i) block.data()[i] = static_cast<std::uint8_t>(random());
  std::vector<float> planar(kTokens * 64);
  CommVqDecode(book.book(), block.data(), kTokens, 0, kTokens, planar.data());
  for (const float x : planar) EXPECT_TRUE(std::isfinite(x));
}

}  // namespace
}  // namespace kvant::kernels
