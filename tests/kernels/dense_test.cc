#include "kernels/sketch/dense.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "hwy/tests/hwy_gtest.h"
#include "kernels/sketch/reference/dense.h"
#include "tests/kernels/lloyd_inputs.h"

namespace kvant::kernels {
namespace {

constexpr std::uint32_t kSeed = 20240502;

class DenseTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(DenseTest);

TEST_P(DenseTest, EveryLaneIsTheScalarTwinBitForBit) {
  std::mt19937 random(kSeed);
  for (const std::size_t dim : {8u, 72u, 128u}) {
    for (const std::size_t rows : {8u, 64u, 200u}) {
      const auto matrix = RandomNormal(rows * dim, random), values = RandomNormal(dim * kLanes, random);
      GuardedBytes in(dim * kLanes * sizeof(float)), out(rows * kLanes * sizeof(float));
      std::copy(values.begin(), values.end(), reinterpret_cast<float*>(in.data()));
      auto* results = reinterpret_cast<float*>(out.data());
      DenseColumns(matrix.data(), rows, dim, reinterpret_cast<const float*>(in.data()), 0.3f, results);
      std::vector<float> expected(rows * kLanes);
      reference::DenseColumns(matrix.data(), rows, dim, values.data(), 0.3f, expected.data());
      for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_EQ(results[i], expected[i]) << dim << " " << rows << " " << i;
      ASSERT_TRUE(in.Intact());
      ASSERT_TRUE(out.Intact());
    }
  }
}

}  // namespace
}  // namespace kvant::kernels
