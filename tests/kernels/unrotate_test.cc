#include "kernels/rotation/unrotate.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <vector>

#include "hwy/tests/hwy_gtest.h"
#include "kernels/rotation/reference/hadamard.h"
#include "tests/kernels/lloyd_inputs.h"

namespace kvant::kernels {
namespace {

constexpr std::uint32_t kSeed = 21;

class UnrotateTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(UnrotateTest);

TEST_P(UnrotateTest, RowsAreTheScalarTwinsBitForBitHoweverManyThereAre) {
  std::mt19937 random(kSeed);
  for (const std::uint32_t dim : {8u, 32u, 64u, 72u, 96u, 128u, 256u}) {
    const auto shape = HadamardShape::For(dim);
    const auto signs = RandomSigns(shape, 3, random);
    MapTables tables;
    const HadamardMap map = MapOf(shape, 3, signs, tables);
    const auto mean = RandomNormal(dim, random);
    for (const std::size_t n : {1u, 2u, 3u, 4u, 5u, 7u, 8u, 9u, 16u, 21u}) {
      for (const bool centred : {false, true}) {
        const std::size_t stride = dim + 3;
        const auto from = PaddedRows(n, dim, stride, random);
        const auto weights = RandomNormal(n, random);
        constexpr float kFactor = 0.37f, kUntouched = -12345.0f;
        std::vector<float> rows(n * dim + 1, kUntouched);
        GuardedBytes scratch(RotationScratchBytes(dim));
        Unrotate({map, kFactor, centred ? mean.data() : nullptr, weights.data(), from.data(), stride, n, rows.data(),
                  scratch.raw()});
        ASSERT_TRUE(scratch.Intact());
        EXPECT_EQ(rows.back(), kUntouched);
        for (std::size_t i = 0; i < n; ++i) {
          std::vector<float> expected(from.begin() + static_cast<std::ptrdiff_t>(i * stride),
                                      from.begin() + static_cast<std::ptrdiff_t>(i * stride + dim));
          reference::HadamardInverse(shape, 3, signs.data(), expected.data());
          for (std::size_t k = 0; k < dim; ++k) {
            float value = expected[k] * kFactor;
            if (centred) value += weights[i] * mean[k];
            ASSERT_EQ(rows[i * dim + k], value) << "dim " << dim << " row " << i << " of " << n << " dim " << k;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace kvant::kernels
