#include "kernels/rope.h"

#include <cmath>
#include <random>
#include <vector>

#include <hwy/tests/hwy_gtest.h>

#include "kernels/reference/rope.h"
#include "kernels/rope_frequencies.h"

namespace kvant::kernels {
namespace {

class RopeTest : public hwy::TestWithParamTarget {};
HWY_TARGET_INSTANTIATE_TEST_SUITE_P(RopeTest);

/// Bound of one number, from the norm of its pair and the attention factor. In units of 2^-24: cosine and sine are a product of
/// two pairs that were rounded by at most 1/2 each, which with the product's own roundings makes at most 4.2 for the two
/// together, and turning adds at most 2.5. The angles, in double, err by less than 2^-30 up to token 2^21.
double Bound(double norm, double attention_factor) { return (7 * 0x1p-24 + 0x1p-30) * attention_factor * norm; }

/// Rows [heads, count + 1, dim], one of them between the heads untouched.
void ExpectMatchesReference(const RopeSpec& spec, std::size_t dim, std::size_t heads, std::size_t count,
                            std::uint64_t position) {
  std::mt19937 random(static_cast<unsigned>(dim * 1000 + count));
  std::normal_distribution<float> normal;
  const std::size_t head_stride = (count + 1) * dim;
  std::vector<float> rows(heads * head_stride);
  for (float& x : rows) x = normal(random);
  const std::vector<float> before = rows;
  std::vector<double> expected(rows.begin(), rows.end());
  Rope(spec, dim).Rotate({rows.data(), heads, head_stride, count, position});
  const double attention_factor = ComputeRopeFrequencies(spec, static_cast<std::uint32_t>(dim))->attention_factor;
  const std::size_t dims = spec.pairing == RopePairing::kNone ? 0 : spec.rotary_dims == 0 ? dim : spec.rotary_dims;
  for (std::size_t h = 0; h < heads; ++h) {
    for (std::size_t i = 0; i < count; ++i) {
      double* row = expected.data() + h * head_stride + i * dim;
      const float* turned = rows.data() + h * head_stride + i * dim;
      reference::Rotate(spec, dim, row, position + i);
      for (std::size_t p = 0; p < dims / 2; ++p) {
        const std::size_t a = spec.pairing == RopePairing::kAdjacent ? 2 * p : p;
        const std::size_t b = spec.pairing == RopePairing::kAdjacent ? 2 * p + 1 : p + dims / 2;
        const double bound = Bound(std::hypot(row[a], row[b]) / attention_factor, attention_factor);
        ASSERT_NEAR(turned[a], row[a], bound) << "dim " << dim << " row " << i << " pair " << p << " at " << position;
        ASSERT_NEAR(turned[b], row[b], bound) << "dim " << dim << " row " << i << " pair " << p << " at " << position;
      }
      for (std::size_t k = dims; k < dim; ++k) ASSERT_EQ(turned[k], row[k]) << "beyond the rotary dims: " << k;
    }
    for (std::size_t k = h * head_stride + count * dim; k < (h + 1) * head_stride; ++k) ASSERT_EQ(rows[k], before[k]);
  }
}

TEST_P(RopeTest, MatchesReferenceAtAnyPosition) {
  for (const RopePairing pairing : {RopePairing::kNone, RopePairing::kHalfSplit, RopePairing::kAdjacent}) {
    for (const std::uint32_t dims : {0u, 2u, 18u, 32u}) {
      for (const std::size_t dim : {40, 64, 72, 128}) {
        for (const std::uint64_t position : {0u, 1u, 100u, 131072u, 1048576u}) {
          ExpectMatchesReference({pairing, 10000.0, dims, {}}, dim, 1, 3, position);
        }
        ExpectMatchesReference({pairing, 10000.0, dims, {}}, dim, 2, 150, 77);  // more than two runs
      }
    }
  }
  ExpectMatchesReference({RopePairing::kAdjacent, 10000.0, 0, {}}, 1024, 1, 65, 5);
}

TEST_P(RopeTest, TheAttentionFactorScalesRows) {
  for (const double factor : {0.5, 1.25, 3.0}) {
    const RopeYarn yarn{.factor = 4, .original_positions = 4096, .attention_factor = factor};
    ExpectMatchesReference({RopePairing::kHalfSplit, 10000.0, 0, yarn}, 64, 3, 70, 4090);
  }
}

TEST_P(RopeTest, ScoresDependOnDistanceAlone) {
  const Rope rope({RopePairing::kHalfSplit, 10000.0, 0, {}}, 64);
  const auto score = [&](std::uint64_t query, std::uint64_t key) {
    std::vector<float> q(64, 0.5f);
    std::vector<float> k(64, 0.25f);
    rope.Rotate({.rows = q.data(), .count = 1, .first_position = query});
    rope.Rotate({.rows = k.data(), .count = 1, .first_position = key});
    double sum = 0;
    for (std::size_t i = 0; i < 64; ++i) sum += static_cast<double>(q[i]) * static_cast<double>(k[i]);
    return sum;
  };
  EXPECT_NEAR(score(17, 5), score(100017, 100005), 1e-5);
  EXPECT_GT(std::abs(score(17, 5) - score(18, 5)), 1e-3);
}

}  // namespace
}  // namespace kvant::kernels
