// The noise model that turns a codec's error into attention's: Var(e) = |q|^2 |k|^2 / d * D / (1 - D) * (1 - rho^2) / (d - 1)
// per logit (unbiased scales; rho the cosine of q and k), KL(p || p') = Var_p(e) / 2, and for the output E|o - o'|^2 = sum p^2
// (Var(e) |v - o|^2 + D_v |v|^2).
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quantizers/attention/worker_team.h"
#include "tests/quantizers/attention_case.h"

namespace kvant::quantizers {
namespace {

constexpr std::size_t kDim = 128;

class AttentionNoiseTest : public testing::TestWithParam<int> {};

TEST_P(AttentionNoiseTest, IsWhatTheCodecsErrorPredicts) {
  const Registry registry = Registry::Builtin();
  const std::string spec = "turboquant_mse:bits=" + std::to_string(GetParam());
  test::CaseShape shape{
      .keys = spec, .values = spec, .head_dim = kDim, .kv_heads = 4, .group = 4, .sealed_blocks = 4, .sinks = 0};
  shape.tail = 16;
  shape.queries = 16;
  constexpr std::uint64_t kSeed = 42;
  test::AttentionCase problem(registry, shape, kSeed);
  WorkerTeam alone(0);
  Attention(alone).Run({&problem.item(), 1});
  const auto exact = problem.Reference(false);
  const auto decoded = problem.Reference(true);

  const std::size_t rows = shape.queries * shape.kv_heads * shape.group;
  double divergence = 0;
  double half_variance = 0;
  double logit_variance = 0;
  double squared_weights = 0;
  std::size_t at = 0;
  std::size_t sealed = 0;
  for (std::size_t row = 0; row < rows; ++row) {
    const std::size_t visible = problem.total() - shape.queries + row / (shape.kv_heads * shape.group) + 1;
    double mean = 0;
    double square = 0;
    for (std::size_t i = at; i < at + visible; ++i) {
      const double e = decoded.logits[i] - exact.logits[i];
      mean += exact.weights[i] * e;
      square += exact.weights[i] * e * e;
      divergence += exact.weights[i] * (std::log(exact.weights[i]) - (decoded.logits[i] - decoded.lse[row]));
      if (i - at >= shape.sealed_blocks * shape.block_tokens) continue;
      logit_variance += e * e;
      squared_weights += exact.weights[i] * exact.weights[i];
      ++sealed;
    }
    half_variance += (square - mean * mean) / 2;
    at += visible;
  }
  ASSERT_EQ(at, exact.logits.size());
  EXPECT_NEAR(divergence / half_variance, 1.0, 0.1);

  // E|q|^2 |k|^2 (1 - rho^2) = d (d - 1) for independent N(0,1) rows, and the scale is 1/sqrt(d).
  const double key_error = problem.plan().codec(0, 0, Side::kKeys).expected_error(1).value();
  const double value_error = problem.plan().codec(0, 0, Side::kValues).expected_error(1).value();
  // With the unbiased scale the declared error is D / (1 - D) of the least-squares D.
  EXPECT_NEAR(logit_variance / static_cast<double>(sealed) / key_error, 1.0, 0.05);

  // |v - o|^2 and |v|^2 are about d; the output's error is spread over d numbers.
  const double predicted = squared_weights * (key_error + value_error) * kDim;
  const double measured = test::AttentionCase::Distance(problem.Outputs(), exact.out);
  EXPECT_NEAR(measured / predicted, 1.0, 0.15);
}

INSTANTIATE_TEST_SUITE_P(Bits, AttentionNoiseTest, testing::Values(3, 4));

}  // namespace
}  // namespace kvant::quantizers
