// kvant_bench and `kvantctl bench` in their short forms: every part runs, finds its own results right, and says what it
// promises. Figures are checked for being possible; a machine's speed is no test's business.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/tools/processes.h"

namespace kvant::tests {
namespace {

using Json = nlohmann::json;

const std::string kModel = std::string(KVANT_SOURCE_DIR) + "/tests/models/byte6m";
const std::string kText = std::string(KVANT_SOURCE_DIR) + "/README.md";

Finished Bench(const std::string& part, const std::vector<std::string>& more) {
  const bool operators = part == "memory" || part == "neighbour";
  std::vector<std::string> arguments = {part, "--short"};
  if (operators) arguments.insert(arguments.begin(), "bench");
  arguments.insert(arguments.end(), more.begin(), more.end());
  return RunProgram(std::string(KVANT_PROGRAM_DIR) + (operators ? "/kvantctl" : "/kvant_bench"), arguments);
}

Json BenchJson(const std::string& part, std::vector<std::string> more = {}) {
  more.insert(more.end(), {"-o", "json"});
  const Finished finished = Bench(part, more);
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  Json json = Json::parse(finished.out, nullptr, false);
  EXPECT_TRUE(json.is_object()) << finished.out;
  return json;
}

void ExpectHead(const Json& json, const std::string& part) {
  EXPECT_EQ(json["bench"], part);
  EXPECT_FALSE(json["cpu"].get<std::string>().empty());
  EXPECT_GT(json["cores"], 0);
  EXPECT_GT(json["best_clock_ghz"], 0.05);
  for (const Json& figure : json["figures"]) {
    EXPECT_GT(figure["clock_ghz"], 0.0);
    EXPECT_LE(figure["clock_ghz"], json["best_clock_ghz"]);
    EXPECT_EQ(figure["clock_low"], figure["clock_ghz"].get<double>() < 0.9 * json["best_clock_ghz"].get<double>());
  }
}

void ExpectTimes(const Json& figure) {
  EXPECT_GT(figure["calls"], 1);
  EXPECT_GT(figure["median_ns"], 0.0);
  EXPECT_GE(figure["p99_ns"], figure["median_ns"]);
}

std::vector<Json> FiguresOf(const Json& json, const std::string& what) {
  std::vector<Json> found;
  for (const Json& figure : json["figures"]) {
    if (figure["case"] == what) found.push_back(figure);
  }
  return found;
}

TEST(BenchTest, AttendMeasuresPlansPeersBatchesAndScaling) {
  const Json json = BenchJson("attend");
  ExpectHead(json, "attend");
  EXPECT_GT(json["read_only_GBps_1_thread"], 0.01);
  EXPECT_GT(json["read_only_GBps_2_threads"], 0.01);
  const auto peers = FiguresOf(json, "peer");
  ASSERT_EQ(peers.size(), 4U);  // two, with one and two threads
  EXPECT_EQ(peers[0]["keys"], "f16");
  EXPECT_EQ(peers[0]["bytes"], 512 * 8 * 2 * 256);
  EXPECT_EQ(peers[1]["keys"], "q4_0");
  EXPECT_EQ(peers[1]["bytes"], 512 * 8 * 2 * 72);
  const auto plans = FiguresOf(json, "decode");
  ASSERT_EQ(plans.size(), 10U);
  for (const Json& figure : plans) {
    ExpectTimes(figure);
    EXPECT_EQ(figure["tokens"], 512);
    EXPECT_EQ(figure["macs"], 2.0 * 128 * 32 * 512);
    EXPECT_GT(figure["times_faster_than_f16"], 0.0);
    EXPECT_GT(figure["times_faster_than_q4_0"], 0.0);
    EXPECT_GE(figure["share_of_limit"], figure["share_of_peak"]);
    EXPECT_GE(figure["share_of_limit"], figure["share_of_read_only"]);
    EXPECT_THAT(figure["limit"], testing::AnyOf("bytes", "operations"));
    if (figure["keys"] != "f16") {
      EXPECT_LE(figure["hidden_loss"], 0.05);
    }
  }
  EXPECT_EQ(plans[0]["keys"], "turboquant_mse:bits=2");
  // 2.125 bits a number, and of each block of keys the mean and the gains.
  EXPECT_EQ(plans[0]["bytes"], 512 * 8 * 2 * 34 + 512 / 128 * 8 * 3 * 128);
  EXPECT_LT(plans[2]["error"], plans[0]["error"]);
  EXPECT_EQ(FiguresOf(json, "batch of 8 / one").size(), 1U);
  EXPECT_EQ(FiguresOf(json, "one KV head, 1 / 2 threads").size(), 1U);
}

TEST(BenchTest, AttendTakesThePlanLengthAndThreadsThatItIsGiven) {
  const Json json =
      BenchJson("attend", {"--keys", "int8", "--values", "turboquant_mse:bits=3", "--tokens", "256,384", "--threads", "1"});
  const auto plans = FiguresOf(json, "decode");
  ASSERT_EQ(plans.size(), 2U);
  EXPECT_EQ(plans[1]["keys"], "int8");
  EXPECT_EQ(plans[1]["values"], "turboquant_mse:bits=3");
  EXPECT_EQ(plans[1]["tokens"], 384);
  EXPECT_EQ(plans[1]["threads"], 1);
}

TEST(BenchTest, RowsOfARealModel) {
  const Json json =
      BenchJson("attend", {"--rows", kModel, "--text", kText, "--keys", "turboquant_mse:bits=4", "--threads", "1"});
  EXPECT_EQ(json["rows"], "byte6m");
  const auto plans = FiguresOf(json, "decode");
  ASSERT_EQ(plans.size(), 1U);
  EXPECT_GT(plans[0]["error"], 0.0);
  EXPECT_LT(plans[0]["error"], 0.5);
}

TEST(BenchTest, AppendMeasuresBothSidesOfEveryCodec) {
  const Json json = BenchJson("append");
  ExpectHead(json, "append");
  EXPECT_GE(json["figures"].size(), 4U * 9U);
  for (const Json& figure : json["figures"]) {
    ExpectTimes(figure);
    EXPECT_EQ(figure["bytes"], 128 * 256);
    EXPECT_NEAR(figure["row_ns"].get<double>(), figure["median_ns"].get<double>() / 128, 1e-6);
    EXPECT_LE(figure["squared_error"].get<double>(), 1.1 * figure["declared_squared_error"].get<double>() + 1e-5);
  }
  EXPECT_EQ(BenchJson("append", {"--keys", "int8"})["figures"].size(), 4U);
}

TEST(BenchTest, PoliciesReadTheBlocksOfWhatTheyKeep) {
  const Json json = BenchJson("policies", {"--threads", "1"});
  ExpectHead(json, "policies");
  ASSERT_EQ(json["figures"].size(), 5u);
  double before = 2.0;
  for (const Json& figure : json["figures"]) {
    EXPECT_EQ(figure["kept"], 2048);
    EXPECT_GT(figure["times_faster_than_all"], 0.0);
    if (figure["policy"] == "window:tokens=2044,sinks=4") {
      EXPECT_DOUBLE_EQ(figure["share_of_blocks"], 17.0 / 64) << "16 blocks of the window and the sinks'";
      continue;
    }
    EXPECT_LE(figure["share_of_blocks"], before) << "the longer the runs, the fewer blocks";
    before = figure["share_of_blocks"];
  }
}

TEST(BenchTest, ACodeThatIsAnExpanderIsHeldAgainstInt8) {
  const Json json = BenchJson("expander", {"--threads", "1"});
  ExpectHead(json, "expander");
  ASSERT_EQ(json["figures"].size(), 2U);
  const Json &int8 = json["figures"][0], &toy = json["figures"][1];
  for (const Json& figure : json["figures"]) ExpectTimes(figure);
  EXPECT_EQ(int8["codec"], "int8");
  EXPECT_EQ(int8["share_of_int8"], 1.0);
  EXPECT_EQ(toy["codec"], "toy_nibbles");
  EXPECT_NEAR(toy["share_of_int8"].get<double>(),
              toy["share_of_read_only"].get<double>() / int8["share_of_read_only"].get<double>(), 1e-9);
  // 4 and 8 bits and a scale of 16 for 128 numbers: what is called a share is of the codec's own bytes.
  EXPECT_NEAR(toy["bytes"].get<double>() / int8["bytes"].get<double>(), 66.0 / 130.0, 1e-9);
  EXPECT_GT(toy["error"], 2 * int8["error"].get<double>());
}

TEST(BenchTest, PrefillComparesWithThePeakOfTheInstruction) {
  const Json json = BenchJson("prefill");
  ExpectHead(json, "prefill");
  ASSERT_EQ(json["figures"].size(), 3U * 2U * 2U);  // plans, numbers of new tokens, threads
  for (const Json& figure : json["figures"]) {
    ExpectTimes(figure);
    EXPECT_GT(figure["share_of_peak"], 0.0);
    EXPECT_FALSE(figure["peak_instruction"].get<std::string>().empty());
  }
  EXPECT_EQ(json["figures"][2]["query_tokens"], 8);
}

TEST(BenchTest, StepsInTheDaemonAndInThisProcess) {
  for (const std::string part : {"rpc", "local"}) {
    const Json json = BenchJson(part);
    ExpectHead(json, part);
    const auto steps = FiguresOf(json, part == "rpc" ? "service step" : "local step");
    ASSERT_EQ(steps.size(), 2U);  // blocking and spinning
    for (const Json& figure : steps) {
      EXPECT_GT(figure["step_median_us"], 0.0);
      EXPECT_GT(figure["compute_median_us"], 0.0);
      EXPECT_EQ(figure["bytes_copied_per_step"], 0.0);
      EXPECT_EQ(figure["calls_per_step"].get<double>() >= 1.0, part == "rpc");
    }
    EXPECT_EQ(steps[0]["mode"], "blocking");
    const auto sealing = FiguresOf(json, "token while blocks are sealed");
    ASSERT_EQ(sealing.size(), 2U);
    EXPECT_GT(sealing[0]["sealed_blocks"], 0);
    EXPECT_EQ(FiguresOf(json, "token without sealing").size(), 2U);
    EXPECT_EQ(FiguresOf(json, "64 bytes over a socket").size(), 2U);
  }
}

TEST(BenchTest, MemoryWatchesADaemonOfItsOwn) {
  const Json json = BenchJson("memory");
  ExpectHead(json, "memory");
  ASSERT_EQ(json["figures"].size(), 1U);
  const Json& figure = json["figures"][0];
  ExpectTimes(figure);
  EXPECT_EQ(figure["tokens"], 512 + 2 * 32);
  EXPECT_EQ(figure["copied_bytes_per_step"], 0.0);
  EXPECT_GT(figure["compressed_bytes"], 0);
  EXPECT_GT(figure["logical_f16_bytes"], 3 * figure["compressed_bytes"].get<double>());
  EXPECT_GT(figure["daemon_resident_bytes"], figure["compressed_bytes"]);
  EXPECT_GT(figure["daemon_resident_bytes"], figure["daemon_arena_bytes"]);
  EXPECT_GT(figure["daemon_arena_bytes"], 0);
}

TEST(BenchTest, MemoryWatchesTheDaemonThatItIsGiven) {
  const RunningDaemon daemon({"--budget", "64MiB"});
  const Json json = BenchJson("memory", {"--socket", daemon.socket(), "--keys", "int8"});
  ASSERT_EQ(json["figures"].size(), 1U);
  EXPECT_EQ(json["figures"][0]["keys"], "int8");
  EXPECT_EQ(json["figures"][0]["daemon_pid"], daemon.pid());
}

TEST(BenchTest, ATableNamesTheMachineAndTheTargets) {
  const Finished finished = Bench("prefill", {"--keys", "int8", "--threads", "1"});
  EXPECT_EQ(finished.exit_code, 0) << finished.err;
  EXPECT_THAT(finished.out, testing::AllOf(testing::StartsWith("bench: prefill\ncpu: "), testing::HasSubstr("OF PEAK %")));
}

TEST(BenchTest, WhatCannotBeMeasuredIsAnErrorWithoutFigures) {
  const auto expect_failure = [](const Finished& finished, int exit_code, const std::string& message) {
    EXPECT_EQ(finished.exit_code, exit_code);
    EXPECT_EQ(finished.out, "");
    EXPECT_THAT(finished.err, testing::HasSubstr(message));
  };
  expect_failure(Bench("attend", {"--keys", "no_such_codec"}), 1, "no_such_codec");
  expect_failure(Bench("attend", {"--rows", kModel, "--text", kModel + "/generation_config.json"}), 1,
                 "tokens; 640 are wanted");
  expect_failure(Bench("attend", {"--keys", "f32", "--tokens", "65536"}), 1, "no room for 65536 tokens");
  expect_failure(Bench("memory", {"--socket", "/nowhere/kvantd.sock"}), 3, "/nowhere/kvantd.sock");
  expect_failure(Bench("attend", {"--rows", kModel}), 2, "a model's rows need --text");
  expect_failure(Bench("attend", {"--rows", "/nowhere", "--text", kText}), 2, "neither random nor a folder");
  expect_failure(Bench("attend", {"--rows", kModel, "--text", "/dev/zero"}), 2, "no regular file");
  EXPECT_EQ(Bench("attend", {"--tokens", "1000"}).exit_code, 2);
  EXPECT_EQ(Bench("attend", {"--tokens", "-128"}).exit_code, 2);
  EXPECT_EQ(Bench("attend", {"--rounds", "-1"}).exit_code, 2);
  EXPECT_EQ(Bench("nothing", {}).exit_code, 2);
}

TEST(BenchTest, NeighbourTimesEveryCallAloneAndBesideAPrefill) {
  const Json json = BenchJson("neighbour");
  ExpectHead(json, "neighbour");
  std::vector<std::string> calls;
  for (const Json& figure : json["figures"]) {
    calls.push_back(figure["call"].get<std::string>() + " beside " + figure["beside"].get<std::string>());
    EXPECT_GT(figure["calls"], 0);
    EXPECT_GT(figure["median_ns"], 0.0);
    EXPECT_GE(figure["p99_ns"], figure["median_ns"]);
    EXPECT_GE(figure["worst_ns"], figure["p99_ns"]);
  }
  EXPECT_THAT(calls, testing::ElementsAre("ping beside nothing", "ping beside a prefill", "open beside nothing",
                                          "open beside a prefill", "step beside nothing", "step beside a prefill",
                                          "prefill beside the neighbour"));
}

TEST(BenchTest, HelpOfAPartListsItsOptions) {
  for (const std::string part : {"attend", "memory", "neighbour"}) {
    const Finished help = Bench(part, {"--help"});
    EXPECT_EQ(help.exit_code, 0);
    EXPECT_THAT(help.out, testing::AllOf(testing::HasSubstr("--short"), testing::HasSubstr("--keys")));
  }
}

TEST(BenchTest, OutputThatDoesNotArriveIsAFailure) {
  const Finished finished = RunProgram(std::string(KVANT_PROGRAM_DIR) + "/kvant_bench", {"--help"}, "/dev/full");
  EXPECT_EQ(finished.exit_code, 1);
  EXPECT_THAT(finished.err, testing::HasSubstr("cannot write to standard output"));
}

}  // namespace
}  // namespace kvant::tests
