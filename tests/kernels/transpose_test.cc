#include "kernels/rotation/transpose.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "hwy/tests/hwy_gtest.h"
#include "kernels/rotation/reference/transpose.h"
#include "tests/kernels/lloyd_inputs.h"

namespace kvant::kernels {
namespace {

class TransposeTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(TransposeTest);

/// Same number, NaN being NaN of any kind.
bool Same(float a, float b) { return std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b); }

TEST_P(TransposeTest, LoadsEveryHalfAndBrainPatternExactly) {
  GuardedBytes memory(1024 * kLanes * sizeof(float));
  auto* columns = reinterpret_cast<float*>(memory.data());
  std::vector<std::uint16_t> patterns(1u << 16);
  for (std::size_t i = 0; i < patterns.size(); ++i) patterns[i] = static_cast<std::uint16_t>(i);
  for (const ElementType type : {ElementType::kF16, ElementType::kBF16}) {
    const RowsView rows{patterns.data(), type, 64, 1024, 1024};
    for (std::size_t first = 0; first < 64; first += kLanes) {
      LoadColumns(rows, first, kLanes, columns);
      for (std::size_t r = 0; r < kLanes; ++r) {
        for (std::size_t i = 0; i < 1024; ++i) {
          ASSERT_TRUE(Same(columns[i * kLanes + r], reference::ElementAt(rows, first + r, i)))
              << "pattern " << (first + r) * 1024 + i;
        }
      }
    }
  }
}

TEST_P(TransposeTest, LoadsAnyCountAndStrideAndZeroesTheOtherLanes) {
  constexpr std::uint32_t kSeed = 7;
  std::mt19937 random(kSeed);
  for (const std::size_t dim : {8u, 24u, 72u, 128u}) {
    for (std::size_t count = 0; count <= kLanes; ++count) {
      const std::size_t stride = dim + 5;
      const auto values = PaddedRows(count + 2, dim, stride, random);
      const RowsView rows{values.data(), ElementType::kF32, count + 2, dim, stride};
      GuardedBytes memory(dim * kLanes * sizeof(float));
      auto* columns = reinterpret_cast<float*>(memory.data());
      LoadColumns(rows, 2, count, columns);
      std::vector<float> expected(dim * kLanes);
      reference::LoadColumns(rows, 2, count, expected.data());
      for (std::size_t i = 0; i < expected.size(); ++i)
        ASSERT_EQ(columns[i], expected[i]) << dim << " " << count << " seed " << kSeed;
      ASSERT_TRUE(memory.Intact());
    }
  }
}

TEST_P(TransposeTest, StoresOnlyTheRowsAskedFor) {
  constexpr std::uint32_t kSeed = 8;
  std::mt19937 random(kSeed);
  for (const std::size_t dim : {8u, 40u}) {
    GuardedBytes memory(dim * kLanes * sizeof(float));
    auto* columns = reinterpret_cast<float*>(memory.data());
    const auto values = RandomNormal(dim * kLanes, random);
    std::copy(values.begin(), values.end(), columns);
    for (std::size_t first = 0; first < kLanes; ++first) {
      for (std::size_t count = 0; first + count <= kLanes; ++count) {
        const std::size_t stride = dim + 3;
        std::vector<float> rows(count * stride + 64, -1.0f), expected = rows;
        StoreColumns(columns, dim, first, count, rows.data(), stride);
        reference::StoreColumns(columns, dim, first, count, expected.data(), stride);
        ASSERT_EQ(rows, expected) << dim << " " << first << " " << count << " seed " << kSeed;
      }
    }
  }
}

}  // namespace
}  // namespace kvant::kernels
