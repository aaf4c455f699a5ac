#include "kernels/rope.h"

#include <cmath>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "kernels/reference/rope.h"

namespace kvant::kernels {
namespace {

TEST(RopeTest, MatchesReferenceAtAnyPosition) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (const RopePairing pairing : {RopePairing::kNone, RopePairing::kHalfSplit, RopePairing::kAdjacent}) {
    for (const std::uint32_t dims : {0u, 16u}) {
      for (const std::uint64_t position : {0u, 1u, 100u, 131072u, 1048576u}) {
        const RopeSpec spec{pairing, 10000.0, dims};
        constexpr std::size_t kDim = 40;
        constexpr std::size_t kRows = 150;  // more than one run of the recurrence
        std::vector<float> rows(kRows * kDim);
        for (float& x : rows) x = normal(random);
        std::vector<double> expected(rows.begin(), rows.end());
        Rope(spec, kDim).Rotate(rows.data(), kRows, position);
        for (std::size_t i = 0; i < kRows; ++i) reference::Rotate(spec, kDim, expected.data() + i * kDim, position + i);
        for (std::size_t i = 0; i < rows.size(); ++i) ASSERT_NEAR(rows[i], expected[i], 5e-7) << position << " " << i;
      }
    }
  }
}

TEST(RopeTest, ScoresDependOnDistanceAlone) {
  const Rope rope({RopePairing::kHalfSplit, 10000.0, 0}, 64);
  const auto score = [&](std::uint64_t query, std::uint64_t key) {
    std::vector<float> q(64, 0.5f);
    std::vector<float> k(64, 0.25f);
    rope.Rotate(q.data(), 1, query);
    rope.Rotate(k.data(), 1, key);
    double sum = 0;
    for (std::size_t i = 0; i < 64; ++i) sum += static_cast<double>(q[i]) * static_cast<double>(k[i]);
    return sum;
  };
  EXPECT_NEAR(score(17, 5), score(100017, 100005), 1e-5);
  EXPECT_GT(std::abs(score(17, 5) - score(18, 5)), 1e-3);
}

}  // namespace
}  // namespace kvant::kernels
