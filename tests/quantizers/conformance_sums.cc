// Conformance of value codecs: Accumulate and Finish against decoded rows.
#include "tests/quantizers/conformance.h"

#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "tests/quantizers/conformance_calls.h"

namespace kvant::quantizers::test {

void ConformanceCase::CheckSums() const {
  const auto original = NormalRows(Side::kValues, kSeed + 7);
  Block encoded(*values_);
  ASSERT_TRUE(Encode(*values_, 0, View(original, dim_), encoded));
  for (std::size_t parts = 1; parts <= values_->parts(); ++parts) {
    const ConstBlockView block = encoded.first(parts);
    const auto decoded = Decode(Side::kValues, 0, block);
    // As many queries in a call of attention as in one call of the codec, and far more.
    for (const std::size_t call : {std::size_t{1}, std::size_t{4096}}) {
      for (const std::size_t n : {std::size_t{1}, std::size_t{3}, std::size_t{4}, std::size_t{7}, kMaxQueries}) {
        // Softmax weights: a few large ones, many small ones, a third of them masked.
        const std::size_t stride = tokens_ + 5;
        auto weights = Gaussian(n * stride, kSeed + 8);
        std::vector<float> totals(n, 0.0f);
        for (std::size_t i = 0; i < n; ++i) {
          for (std::size_t t = 0; t < stride; ++t) {
            float& w = weights[i * stride + t];
            w = t >= tokens_ ? std::numeric_limits<float>::quiet_NaN() : t % 3 == 1 ? 0.0f : std::exp(2 * w);
            if (t < tokens_) totals[i] += w;
          }
        }
        Sums sums(*values_, n, call);
        sums.Add(weights.data(), stride, block);
        std::vector<float> rows(n * dim_);
        sums.Finish(totals.data(), rows.data(), dim_);
        double hidden = 0;
        double own = 0;
        double norm = 0;
        for (std::size_t i = 0; i < n; ++i) {
          for (std::size_t k = 0; k < dim_; ++k) {
            double expected = 0;
            double exact = 0;
            double magnitude = 0;
            for (std::size_t t = 0; t < tokens_; ++t) {
              const double w = weights[i * stride + t];
              expected += w * static_cast<double>(decoded[t * dim_ + k]);
              exact += w * static_cast<double>(original[t * dim_ + k]);
              magnitude += std::pow(w * static_cast<double>(original[t * dim_ + k]), 2);
            }
            hidden += std::pow(static_cast<double>(rows[i * dim_ + k]) - expected, 2);
            own += std::pow(expected - exact, 2);
            norm += magnitude;
          }
        }
        EXPECT_LE(hidden, kHiddenShare * own + kFloatError * kFloatError * norm) << n << " queries, own squared error " << own;

        // With strides, overwritten or added to.
        const std::size_t row_stride = dim_ + 3;
        for (const bool add : {false, true}) {
          std::vector<float> spread(n * row_stride, 5.0f);
          sums.Finish(totals.data(), spread.data(), row_stride, add);
          for (std::size_t i = 0; i < spread.size(); ++i) {
            const std::size_t k = i % row_stride;
            const float expected = k >= dim_ ? 5.0f : (add ? 5.0f : 0.0f) + rows[i / row_stride * dim_ + k];
            ASSERT_NEAR(spread[i], expected, add ? 4e-6f * (5.0f + std::fabs(expected)) : 0.0f) << (add ? "added" : "");
          }
        }

        // Weights of 0 add nothing, and a query's sum does not depend on its company.
        const auto before = sums.Of(n - 1);
        const std::vector<float> zeros(n * tokens_, 0.0f);
        sums.Add(zeros.data(), tokens_, block);
        EXPECT_EQ(sums.Of(n - 1), before);
        Sums alone(*values_, 1, call);
        alone.Add(weights.data() + (n - 1) * stride, stride, block, {block.part[0], values_->part_bytes(0)});
        EXPECT_EQ(alone.Of(0), before) << n;
      }
    }
  }
}

}  // namespace kvant::quantizers::test
