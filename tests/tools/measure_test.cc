// What the benchmarks measure with: the judge of results, statistics, rows and workloads.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "quantizers/attention/worker_team.h"
#include "tools/bench/attend_calls.h"
#include "tools/bench/bandwidth.h"
#include "tools/bench/clock.h"
#include "tools/bench/peak.h"
#include "tools/bench/series.h"
#include "tools/bench/shared_memory.h"

namespace kvant::tools {
namespace {

TEST(JudgeTest, AcceptsAResultWithinTheCodecsOwnNoise) {
  const std::vector<double> exact = {1.0, 0.0, 0.0, 0.0};
  const std::vector<double> decoded = {1.0, 0.1, 0.0, 0.0};
  const std::vector<float> result = {1.0f, 0.1f, 0.02f, 0.0f};  // hides (0.02 / 0.1)^2 = 4 %
  const Accuracy accuracy = Compare(result, decoded, exact);
  EXPECT_NEAR(accuracy.codec_error, 0.1, 1e-6);
  EXPECT_NEAR(accuracy.hidden_loss(), 0.04, 1e-3);
  EXPECT_TRUE(Judge(accuracy, "test"));
}

TEST(JudgeTest, RefusesAWrongResultAndNamesIt) {
  const std::vector<double> exact = {1.0, 0.0, 0.0, 0.0};
  const std::vector<double> decoded = {1.0, 0.1, 0.0, 0.0};
  const std::vector<float> result = {1.0f, 0.1f, 0.025f, 0.0f};  // 6 %
  const auto refused = Judge(Compare(result, decoded, exact), "this and that");
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, testing::StartsWith("this and that: the result differs"));
  const std::vector<float> nan(4, std::numeric_limits<float>::quiet_NaN());
  EXPECT_FALSE(Judge(Compare(nan, decoded, exact), "NaN"));
}

TEST(SeriesTest, QuantilesAndRatiosOfRounds) {
  EXPECT_EQ(Median({3, 1, 2}), 2);
  EXPECT_EQ(Quantile({1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, 0.9), 10);
  Series a, b;
  a.rounds_ns = {10, 20, 400};
  b.rounds_ns = {5, 5, 200};
  EXPECT_EQ(MedianRatio(a, b), 2);
}

TEST(SeriesTest, ContendersTakeTurns) {
  std::vector<int> order;
  const std::vector<Contender> contenders = {{[&] { order.push_back(0); }, 2}, {[&] { order.push_back(1); }, 1}};
  const auto series = TakeTurns(contenders, 2);
  EXPECT_THAT(order, testing::ElementsAre(0, 0, 1, 0, 0, 1, 0, 0, 1));  // the first round warms up
  EXPECT_EQ(series[0].calls_ns.size(), 4U);
  EXPECT_EQ(series[0].rounds_ns.size(), 2U);
  EXPECT_EQ(series[1].calls_ns.size(), 2U);
}

TEST(PlainAttentionTest, CountsATokenAsOftenAsItOccurs) {
  // Two tokens, logits 0 and ln 3: weights 1 : 3; with the first counted three times 3 : 3.
  const std::vector<float> keys = {0.0f, 1.0f};
  const std::vector<float> values = {1.0f, 5.0f};
  const std::vector<float> query = {static_cast<float>(std::log(3.0))};
  double out = 0.0;
  PlainAttention({keys.data(), values.data(), std::vector<double>{1.0, 1.0}, 1}, query.data(), 1, 1.0, &out);
  EXPECT_NEAR(out, 4.0, 1e-6);
  PlainAttention({keys.data(), values.data(), std::vector<double>{3.0, 1.0}, 1}, query.data(), 1, 1.0, &out);
  EXPECT_NEAR(out, 3.0, 1e-6);
}

TEST(WorkloadTest, ASequenceEndsWithTheRowsLastToken) {
  const SampleRows rows = NormalSample(4 * kBlockTokens, 1);
  SharedMemory memory(std::size_t{16} << 20);
  const auto registry = quantizers::Registry::Builtin();
  const auto workload =
      Workload::Make(registry, {.keys = "int8", .values = "int8", .tokens = 6 * kBlockTokens}, rows, memory.bytes());
  ASSERT_TRUE(workload) << workload.error().message;
  const std::vector<double> times = (*workload)->Times(6 * kBlockTokens);
  EXPECT_EQ(times[0], 1);  // blocks 2 3 0 1 2 3
  EXPECT_EQ(times[4 * kBlockTokens - 1], 2);
  EXPECT_EQ((*workload)->Times(1)[2 * kBlockTokens], 1);
}

TEST(AttendCallsTest, PromptsAndBatchesAreCheckedAgainstPlainAttention) {
  const SampleRows rows = NormalSample(4 * kBlockTokens, 8);
  SharedMemory memory(std::size_t{16} << 20);
  const auto registry = quantizers::Registry::Builtin();
  const auto workload =
      Workload::Make(registry, {.keys = "turboquant_mse:bits=4", .values = "turboquant_mse:bits=2", .tokens = 8 * kBlockTokens},
                     rows, memory.bytes());
  ASSERT_TRUE(workload) << workload.error().message;
  quantizers::WorkerTeam team(1);
  for (const CallForm form : {CallForm{1, 1}, CallForm{8, 1}, CallForm{1, 8}}) {
    AttendCalls calls(**workload, team, form);
    const auto right = calls.Check();
    ASSERT_TRUE(right) << right.error().message;
    EXPECT_GT(right->error, 0.05);  // 2 bits are no exact copy: the check compares with the original rows
    EXPECT_LT(right->error, 0.7);
  }
}

// Only that they run and give numbers that could be: a machine's speed is no test's business.
TEST(LimitsTest, ProbesGivePositiveFigures) {
  quantizers::WorkerTeam team(1, std::chrono::milliseconds(1));
  EXPECT_GT(ClockGhz(), 0.05);
  for (const Arithmetic arithmetic : {Arithmetic::kBytes, Arithmetic::kFloats}) {
    PeakProbe probe(team, arithmetic);
    probe.Run();
    EXPECT_GE(probe.macs(), 2 * 100'000 * 10 * 4);  // threads, iterations, sums, lanes of 128 bit
    EXPECT_FALSE(probe.instruction().empty());
  }
  SharedMemory memory(std::size_t{4} << 20);
  EXPECT_GT(ReadBandwidth(memory.bytes(), 2, 1), 1e7);
}

}  // namespace
}  // namespace kvant::tools
