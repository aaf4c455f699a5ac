#include "kernels/raw/dot.h"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <hwy/tests/hwy_gtest.h>

#include "kernels/raw/reference/dot.h"
#include "kernels/raw/reference/weighted_sum.h"
#include "kernels/raw/rows.h"
#include "kernels/raw/weighted_sum.h"

namespace kvant::kernels {
namespace {

/// Random rows with NaN between and behind them.
struct Rows {
  Rows(ElementType type, std::size_t count, std::size_t dim, std::size_t stride)
      : bytes((count * stride + 1) * ElementBytes(type), std::byte{0xff}) {
    std::mt19937_64 random(count * 1000 + dim);
    std::normal_distribution<float> normal;
    std::byte* base = bytes.data() + ElementBytes(type);  // aligned to the element only
    std::vector<float> row(dim);
    for (std::size_t t = 0; t < count; ++t) {
      for (float& x : row) x = normal(random);
      StoreRow(row.data(), dim, type, base + t * stride * ElementBytes(type));
    }
    view = {base, type, count, dim, stride};
  }
  std::vector<std::byte> bytes;
  RowsView view;
};

std::vector<float> Gaussian(std::size_t n) {
  std::mt19937_64 random(n);
  std::normal_distribution<float> normal;
  std::vector<float> v(n);
  for (float& x : v) x = normal(random);
  return v;
}

/// A float sum of n products whose magnitudes sum to `magnitude` is off by at most (n + 1) roundings of it, in any order.
double RoundingBound(std::size_t n, double magnitude) { return static_cast<double>(n + 1) * std::ldexp(magnitude, -24); }

class DotTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(DotTest);

TEST_P(DotTest, MatchesReference) {
  for (const ElementType type : {ElementType::kF32, ElementType::kF16, ElementType::kBF16}) {
    for (const std::size_t dim : {8, 16, 24, 40, 64, 72, 128, 1024}) {
      for (const std::size_t count : {0, 1, 2, 3, 4, 5, 7, 16}) {
        for (const std::size_t n : {0, 1, 3, 4, 5, 9}) {
          const Rows rows(type, count, dim, dim + 3);
          const auto queries = Gaussian(n * dim);
          const std::size_t stride = count + 2;
          std::vector<float> logits(n * stride, -9.0f);
          DotRows(queries.data(), n, rows.view, logits.data(), stride);
          for (std::size_t i = 0; i < n; ++i) {
            for (std::size_t t = 0; t < count; ++t) {
              double magnitude = 0;
              for (std::size_t k = 0; k < dim; ++k) {
                magnitude +=
                    std::abs(queries[i * dim + k] * reference::ElementAt(rows.view.data, type, t * rows.view.stride + k));
              }
              ASSERT_NEAR(logits[i * stride + t], reference::DotRow(queries.data() + i * dim, rows.view, t),
                          RoundingBound(dim, magnitude));
            }
            ASSERT_EQ(logits[i * stride + count], -9.0f);
          }
        }
      }
    }
  }
}

class WeightedSumTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(WeightedSumTest);

TEST_P(WeightedSumTest, MatchesReference) {
  for (const ElementType type : {ElementType::kF32, ElementType::kF16, ElementType::kBF16}) {
    for (const std::size_t dim : {8, 16, 24, 40, 64, 72, 128}) {
      for (const std::size_t count : {0, 1, 2, 5, 33}) {
        for (const std::size_t n : {0, 1, 3, 4, 5, 9}) {
          const Rows rows(type, count, dim, dim + 5);
          const std::size_t stride = count + 1;
          auto weights = Gaussian(n * stride);
          for (std::size_t i = 0; i < n; ++i) weights[i * stride + count] = std::numeric_limits<float>::quiet_NaN();
          std::vector<float> acc(n * (dim + 1), 2.0f);
          WeightedSumRows(weights.data(), stride, n, rows.view, acc.data(), dim + 1);
          for (std::size_t i = 0; i < n; ++i) {
            for (std::size_t k = 0; k < dim; ++k) {
              const float* w = weights.data() + i * stride;
              double magnitude = 2.0;
              for (std::size_t t = 0; t < count; ++t) {
                magnitude += std::abs(w[t] * reference::ElementAt(rows.view.data, type, t * rows.view.stride + k));
              }
              ASSERT_NEAR(acc[i * (dim + 1) + k], 2.0 + reference::WeightedSum(w, rows.view, k),
                          RoundingBound(count + 1, magnitude));
            }
            ASSERT_EQ(acc[i * (dim + 1) + dim], 2.0f);
          }
        }
      }
    }
  }
}

TEST_P(WeightedSumTest, RescaleAndAddScaledTouchExactlyTheirNumbers) {
  for (const std::size_t n : {0, 1, 7, 8, 16, 31, 64, 100}) {
    const auto x = Gaussian(n);
    std::vector<float> acc(n + 1, 3.0f);
    AddScaled(x.data(), n, 0.5f, acc.data());
    Rescale(acc.data(), n, 4.0f);
    for (std::size_t i = 0; i < n; ++i) EXPECT_EQ(acc[i], (3.0f + x[i] * 0.5f) * 4.0f);
    EXPECT_EQ(acc[n], 3.0f);
  }
}

}  // namespace
}  // namespace kvant::kernels
