#include "kernels/gauge/gauge.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "hwy/tests/hwy_gtest.h"
#include "kernels/gauge/reference/gauge.h"
#include "kernels/raw/rows.h"

namespace kvant::kernels {
namespace {

constexpr std::uint32_t kSeed = 77;
constexpr float kUntouched = -12345.0f;

std::vector<float> Normal(std::size_t n, std::mt19937& random, float spread = 1.0f) {
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> numbers(n);
  for (float& number : numbers) number = normal(random);
  return numbers;
}

TEST(GaugeBytesTest, AreTheUpperPartsOfFloats) {
  for (int byte = 0; byte < 256; ++byte) {
    const auto b = static_cast<std::uint8_t>(byte);
    EXPECT_EQ(GainOf(b), reference::Gain(b)) << byte;
    EXPECT_EQ(GainByte(GainOf(b)), b);
    if (byte < 255) {
      const float middle = (GainOf(b) + reference::Gain(static_cast<std::uint8_t>(byte + 1))) / 2;
      EXPECT_EQ(GainByte(middle), byte + 1) << "ties go up";
      EXPECT_EQ(GainByte(std::nextafter(middle, 0.0f)), byte);
    }
  }
  EXPECT_EQ(GainByte(0.0f), 0);
  EXPECT_EQ(GainByte(std::numeric_limits<float>::denorm_min()), 0);
  EXPECT_EQ(GainByte(std::numeric_limits<float>::max()), 255);
}

class GaugeTest : public hwy::TestWithParamTarget {
 protected:
  /// A gauge with means up to a few hundred and gains of all kinds.
  struct Made {
    std::vector<std::uint16_t> mean;
    std::vector<std::uint8_t> gains;
    [[nodiscard]] BlockGauge With(bool gained) const { return {mean.data(), gained ? gains.data() : nullptr}; }
  };
  Made Make(std::size_t dim) {
    Made made{std::vector<std::uint16_t>(dim), std::vector<std::uint8_t>(dim)};
    const auto means = Normal(dim, random_, 300.0f);
    StoreRow(means.data(), dim, ElementType::kF16, made.mean.data());
    for (auto& gain : made.gains) gain = static_cast<std::uint8_t>(random_());
    return made;
  }
  std::mt19937 random_{kSeed};
};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(GaugeTest);

TEST_P(GaugeTest, IsTheScalarTwinBitForBit) {
  for (const std::size_t dim : {8u, 24u, 64u, 72u, 80u, 128u, 256u}) {
    const Made made = Make(dim);
    for (const std::size_t n : {1u, 3u, 128u}) {
      const auto rows = Normal(n * dim, random_, 20.0f);
      std::vector<float> mean(dim + 1, kUntouched), squares(dim + 1, kUntouched);
      MeanOfRows(rows.data(), n, dim, mean.data());
      SpreadOfRows(rows.data(), n, dim, made.mean.data(), squares.data());
      for (std::size_t d = 0; d < dim; ++d) {
        ASSERT_EQ(mean[d], reference::MeanOfColumn(rows.data(), n, dim, d)) << "dim " << d << " of " << dim;
        ASSERT_EQ(squares[d], reference::SpreadOfColumn(rows.data(), n, dim, d, made.mean[d])) << "dim " << d << " of " << dim;
      }
      EXPECT_EQ(mean.back(), kUntouched);
      EXPECT_EQ(squares.back(), kUntouched);
      for (const bool gained : {false, true}) {
        const BlockGauge gauge = made.With(gained);
        auto coded = rows;
        ApplyGauge(gauge, dim, n, coded.data());
        const std::size_t stride = dim + 5;
        std::vector<float> back(n * stride, kUntouched);
        for (std::size_t i = 0; i < n * dim; ++i) back[i / dim * stride + i % dim] = coded[i];
        RemoveGauge(gauge, dim, n, back.data(), stride);
        for (std::size_t i = 0; i < n * stride; ++i) {
          const std::size_t d = i % stride;
          if (d >= dim) {
            ASSERT_EQ(back[i], kUntouched);
            continue;
          }
          const float centred = rows[i / stride * dim + d] - reference::HalfToFloat(made.mean[d]);
          const float gain = reference::Gain(gauge, d);
          const float expected = gained ? centred / gain : centred;
          ASSERT_EQ(coded[i / stride * dim + d], expected);
          ASSERT_EQ(back[i], expected * gain + reference::HalfToFloat(made.mean[d]));
        }
      }
    }
  }
}

TEST_P(GaugeTest, QueriesAreTheScalarTwinsBitForBit) {
  for (const std::size_t dim : {8u, 24u, 64u, 72u, 80u, 128u, 256u}) {
    const Made made = Make(dim);
    for (const std::size_t n : {1u, 4u, 9u}) {
      const std::size_t stride = dim + 3;
      const auto queries = Normal(n * stride, random_);
      const BlockGauge gauge = made.With(true);
      std::vector<float> scaled(n * dim + 1, kUntouched), dots(n + 1, kUntouched);
      DotsWithMean(gauge, dim, queries.data(), stride, n, dots.data());
      ScaleQueries(gauge, dim, queries.data(), stride, n, scaled.data());
      for (std::size_t i = 0; i < n; ++i) {
        const float* query = queries.data() + i * stride;
        ASSERT_EQ(dots[i], reference::DotWithMean(gauge, dim, query)) << "query " << i << " of " << n << ", " << dim << " dims";
        for (std::size_t d = 0; d < dim; ++d) ASSERT_EQ(scaled[i * dim + d], query[d] * reference::Gain(gauge, d));
      }
      EXPECT_EQ(scaled.back(), kUntouched);
      EXPECT_EQ(dots.back(), kUntouched);
    }
  }
}

TEST_P(GaugeTest, ANumberIsAddedToAllOfItsRow) {
  constexpr std::size_t kRows = 3, kStride = 140;
  const float numbers[kRows] = {2.5f, -1.0f, 0.0f};
  for (const std::size_t width : {1u, 7u, 16u, 33u, 128u}) {
    const auto rows = Normal(kRows * kStride, random_);
    auto sums = rows;
    AddToRows(sums.data(), kStride, kRows, width, numbers);
    for (std::size_t i = 0; i < sums.size(); ++i) {
      ASSERT_EQ(sums[i], i % kStride < width ? rows[i] + numbers[i / kStride] : rows[i]);
    }
  }
}

}  // namespace
}  // namespace kvant::kernels
