// Changes of basis against their scalar twin, on every target, bit for bit.
#include <random>
#include <vector>

#include <hwy/tests/hwy_gtest.h>

#include "kernels/matrix/matrix.h"
#include "kernels/matrix/reference/matrix.h"
#include "tests/kernels/lloyd_inputs.h"

namespace kvant::kernels {
namespace {

class MatrixTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(MatrixTest);

TEST_P(MatrixTest, EqualsTheTwinBothWays) {
  std::mt19937 random(7);
  for (const std::size_t dim : {8U, 24U, 72U, 128U, 256U}) {
    const std::vector<float> basis = RandomNormal(dim * dim, random), offset = RandomNormal(dim, random);
    for (const std::size_t n : {0U, 1U, 3U, 4U, 6U, 17U}) {
      const std::size_t stride = dim + 3;
      const std::vector<float> rows = PaddedRows(n, dim, stride, random), weights = RandomNormal(n, random);
      std::vector<float> there(n * dim + 1, -7.0F), back(n * dim + 1, -7.0F), expected(dim);
      RowsTimesTransposed(basis.data(), dim, rows.data(), stride, n, there.data());
      for (const bool with_offset : {false, true}) {
        const float* added = with_offset ? offset.data() : nullptr;
        RowsTimesMatrix({.matrix = basis.data(),
                         .dim = dim,
                         .rows = there.data(),
                         .stride = dim,
                         .n = n,
                         .offset = added,
                         .offset_weights = weights.data(),
                         .out = back.data()});
        for (std::size_t r = 0; r < n; ++r) {
          reference::RowsTimesMatrix(basis.data(), dim, &there[r * dim], added, weights[r], expected.data());
          for (std::size_t i = 0; i < dim; ++i) ASSERT_EQ(back[r * dim + i], expected[i]) << dim << " " << n << " " << r;
        }
      }
      for (std::size_t r = 0; r < n; ++r) {
        reference::RowsTimesTransposed(basis.data(), dim, &rows[r * stride], expected.data());
        for (std::size_t a = 0; a < dim; ++a) ASSERT_EQ(there[r * dim + a], expected[a]) << dim << " " << n << " " << r;
      }
      EXPECT_EQ(there.back(), -7.0F);
      EXPECT_EQ(back.back(), -7.0F);
    }
  }
}

}  // namespace
}  // namespace kvant::kernels
