#include "kernels/softmax.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include <hwy/tests/hwy_gtest.h>

#include "kernels/reference/softmax.h"

namespace kvant::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

class SoftmaxTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(SoftmaxTest);

TEST_P(SoftmaxTest, ExponentialIsAccurateOverItsRange) {
  std::vector<float> x;
  for (float v = 0; v > -87.3f; v -= 0.00137f) x.push_back(v);
  auto weights = x;
  const float sum = ExpShifted(weights.data(), weights.size(), 0.0f);
  double expected_sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double expected = reference::ExpShifted(x[i], 0.0f);
    expected_sum += expected;
    ASSERT_NEAR(weights[i] / expected, 1.0, std::ldexp(1.0, -22)) << x[i];
  }
  EXPECT_NEAR(sum / expected_sum, 1.0, 1e-5);
  EXPECT_EQ(weights[0], 1.0f);
}

TEST_P(SoftmaxTest, FarBelowTheMaximumIsExactlyZero) {
  for (const std::size_t n : {1, 3, 8, 16, 17, 100}) {
    std::vector<float> logits(n, -kInfinity);
    for (std::size_t i = 0; i < n; i += 3) logits[i] = 10.0f - 87.5f - static_cast<float>(i) * 1e5f;
    EXPECT_EQ(ExpShifted(logits.data(), n, 10.0f), 0.0f);
    for (const float w : logits) EXPECT_EQ(w, 0.0f);
  }
}

TEST_P(SoftmaxTest, AnyLengthAndNothingBeyond) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (std::size_t n = 0; n < 70; ++n) {
    std::vector<float> logits(n + 1);
    for (float& x : logits) x = 3 * normal(random);
    logits[n] = 1000.0f;
    const auto before = logits;
    const float max = MaxOf(logits.data(), n);
    EXPECT_EQ(max, n == 0 ? -kInfinity : *std::max_element(before.begin(), before.end() - 1));
    double expected = 0;
    for (std::size_t i = 0; i < n; ++i) expected += reference::ExpShifted(before[i], max);
    EXPECT_NEAR(ExpShifted(logits.data(), n, n == 0 ? 0.0f : max), expected, expected * 1e-6);
    EXPECT_EQ(logits[n], 1000.0f);
  }
}

TEST_P(SoftmaxTest, MaximumOfMaskedLogits) {
  for (std::size_t n = 1; n < 40; ++n) {
    for (std::size_t at = 0; at < n; ++at) {
      std::vector<float> logits(n, -kInfinity);
      EXPECT_EQ(MaxOf(logits.data(), n), -kInfinity);
      logits[at] = -1e30f;
      EXPECT_EQ(MaxOf(logits.data(), n), -1e30f);
    }
  }
}

TEST_P(SoftmaxTest, SoftCapIsCapTimesTanh) {
  for (const float cap : {0.5f, 30.0f, 50.0f}) {
    std::vector<float> logits;
    for (float x = -500; x < 500; x += 0.37f) logits.push_back(x);
    for (const float x : {0.0f, 1e-6f, -1e-3f, 1e30f, -1e30f, -kInfinity, kInfinity}) logits.push_back(x);
    const auto before = logits;
    SoftCap(logits.data(), logits.size(), cap);
    for (std::size_t i = 0; i < logits.size(); ++i) {
      const double expected = reference::SoftCap(before[i], cap);
      // Highway states 4 ulp for Tanh.
      EXPECT_NEAR(logits[i], expected, std::abs(expected) * std::ldexp(6, -23) + 1e-30) << before[i];
    }
  }
}

}  // namespace
}  // namespace kvant::kernels
