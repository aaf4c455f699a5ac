// Conformance of key codecs: Score against decoded rows.
#include "tests/quantizers/conformance.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <gtest/gtest.h>

#include "kernels/reference/rope.h"
#include "tests/quantizers/conformance_calls.h"

namespace kvant::quantizers::test {

void ConformanceCase::CheckScores() const {
  const std::uint64_t position = 3 * tokens_;
  const auto original = NormalRows(Side::kKeys, kSeed + 5);
  Block encoded(*keys_);
  ASSERT_TRUE(Encode(*keys_, position, View(original, dim_), encoded));
  // Rows as they meet the query: after RoPE where the codec stores them before it.
  const auto turned = [&](const std::vector<float>& rows) {
    std::vector<double> out(rows.begin(), rows.end());
    for (std::size_t t = 0; t < tokens_ && keys_->pre_rope(); ++t)
      kernels::reference::Rotate(rope_, dim_, out.data() + t * dim_, position + t);
    return out;
  };
  const auto original_rows = turned(original);
  // Queries apart from each other, NaN between them.
  const std::size_t query_stride = dim_ + 3;
  const auto queries = Gaussian(kMaxQueries * dim_, kSeed + 6);
  std::vector<float> spread(kMaxQueries * query_stride, std::numeric_limits<float>::quiet_NaN());
  for (std::size_t i = 0; i < queries.size(); ++i) spread[i / dim_ * query_stride + i % dim_] = queries[i];

  for (std::size_t parts = 1; parts <= keys_->parts(); ++parts) {
    const ConstBlockView block = encoded.first(parts);
    const auto expected_rows = turned(Decode(Side::kKeys, position, block));
    for (const std::size_t n : {std::size_t{1}, std::size_t{3}, std::size_t{4}, std::size_t{7}, kMaxQueries}) {
      Prepared prepared(*keys_, spread.data(), query_stride, n);
      const std::size_t stride = tokens_ + 3;
      std::vector<float> logits(n * stride, -77.0f);
      prepared.Score(position, block, logits.data(), stride);
      double hidden = 0;
      double own = 0;
      double scale = 0;
      for (std::size_t i = 0; i < n; ++i) {
        for (std::size_t t = 0; t < tokens_; ++t) {
          double expected = 0;
          double exact = 0;
          double row_norm = 0;
          double query_norm = 0;
          for (std::size_t k = 0; k < dim_; ++k) {
            const double q = queries[i * dim_ + k];
            expected += q * expected_rows[t * dim_ + k];
            exact += q * original_rows[t * dim_ + k];
            row_norm += original_rows[t * dim_ + k] * original_rows[t * dim_ + k];
            query_norm += q * q;
          }
          hidden += std::pow(static_cast<double>(logits[i * stride + t]) - expected, 2);
          own += std::pow(expected - exact, 2);
          scale += row_norm * query_norm;
        }
        for (std::size_t t = tokens_; t < stride; ++t)
          ASSERT_EQ(logits[i * stride + t], -77.0f) << "Score writes beyond the block's tokens";
      }
      EXPECT_LE(hidden, kHiddenShare * own + kFloatError * kFloatError * scale) << n << " queries, own squared error " << own;

      // A query's scores do not depend on its company, its stride, nor on the prefetch hint.
      Prepared single(*keys_, queries.data() + (n - 1) * dim_, dim_, 1);
      std::vector<float> one(tokens_);
      single.Score(position, block, one.data(), tokens_, false, {block.part[0], keys_->part_bytes(0)});
      EXPECT_TRUE(std::equal(one.begin(), one.end(), logits.begin() + static_cast<std::ptrdiff_t>((n - 1) * stride))) << n;

      // Added, they stand on top of what was there.
      std::vector<float> sums(n * stride, 3.0f);
      prepared.Score(position, block, sums.data(), stride, /*add=*/true);
      for (std::size_t i = 0; i < sums.size(); ++i) {
        const float expected = i % stride < tokens_ ? 3.0f + logits[i] : 3.0f;
        ASSERT_NEAR(sums[i], expected, 4e-6f * (3.0f + std::fabs(expected))) << n << " queries, added";
      }
    }
    Prepared nothing(*keys_, queries.data(), dim_, 0);
    nothing.Score(position, block, nullptr, tokens_);
    // All-zero queries (a scale of 0) score 0.
    const std::vector<float> zeros(dim_, 0.0f);
    std::vector<float> logits(tokens_, 1.0f);
    Prepared(*keys_, zeros.data(), dim_, 1).Score(position, block, logits.data(), tokens_);
    for (const float x : logits) EXPECT_EQ(x, 0.0f);
  }
}

}  // namespace kvant::quantizers::test
