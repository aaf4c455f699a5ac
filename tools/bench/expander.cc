// kvant_bench expander: what a code reaches that is an expander and a scale and nothing else: the tests' 4-bit integers beside
// int8, each against the read-only sum of its own bytes.
#include <chrono>

#include "kernels/machine/instructions.h"
#include "quantizers/attention/worker_team.h"
#include "tests/quantizers/toy_codecs.h"
#include "tools/bench/attend_calls.h"
#include "tools/bench/limits.h"
#include "tools/bench/parts.h"
#include "tools/bench/shared_memory.h"

namespace kvant::tools {
namespace {

constexpr double kWanted = 0.8;  // of int8's share

const std::vector<FigureColumn> kColumns = {{"CODEC", "codec"},
                                            {"TOKENS", "tokens", "%.0f"},
                                            {"THREADS", "threads", "%.0f"},
                                            {"MEDIAN us", "median_ns", "%.1f", 1e3},
                                            {"MB", "bytes", "%.2f", 1e6},
                                            {"GB/s", "bytes_per_s", "%.2f", 1e9},
                                            {"READ-ONLY", "read_only_bytes_per_s", "%.2f", 1e9},
                                            {"OF READ-ONLY %", "share_of_read_only", "%.0f", 0.01},
                                            {"OF int8's SHARE %", "share_of_int8", "%.0f", 0.01},
                                            {"ERROR", "error", "%.3g"},
                                            {"TARGET", "target"}};

Result<void> Measure(const BenchOptions& options, const SampleRows& rows, FigureReport& report) {
  const bool full = options.length == BenchOptions::Length::kFull;
  const Effort effort = EffortOf(options);
  quantizers::Registry registry = quantizers::Registry::Builtin();
  if (auto added = registry.Add(quantizers::test::kToyNibbles); !added) return added;
  report.head()["kernels"] = kernels::Instructions();
  report.head()["rows"] = rows.name;
  const std::size_t tokens = options.tokens.empty() ? (full ? 65536 : 512) : options.tokens.front();
  SharedMemory toy_memory(effort.memory_bytes), int8_memory(effort.memory_bytes);
  const auto make = [&](const char* codec, SharedMemory& memory) {
    return Workload::Make(registry, {.keys = codec, .values = codec, .tokens = tokens}, rows, memory.bytes());
  };
  auto toy_workload = make("toy_nibbles", toy_memory);
  if (!toy_workload) return toy_workload.error();
  auto int8_workload = make("int8", int8_memory);
  if (!int8_workload) return int8_workload.error();
  for (const std::size_t threads : options.threads) {
    quantizers::WorkerTeam team(threads - 1, std::chrono::milliseconds(2));
    AttendCalls toy(**toy_workload, team, {}), int8(**int8_workload, team, {});
    const auto toy_right = toy.Check(), int8_right = int8.Check();
    if (!toy_right) return toy_right.error();
    if (!int8_right) return int8_right.error();
    const std::size_t toy_bytes = (*toy_workload)->layer_bytes(), int8_bytes = (*int8_workload)->layer_bytes();
    Limits toy_limits(team, (*toy_workload)->memory(), {toy_bytes, toy.macs()}, Arithmetic::kBytes);
    Limits int8_limits(team, (*int8_workload)->memory(), {int8_bytes, int8.macs()}, Arithmetic::kWords);
    std::vector<Contender> contenders = {{[&] { toy.Run(); }, CallsPerRound(effort, toy_bytes)}};
    toy_limits.AddTo(contenders, CallsPerRound(effort, toy_bytes));
    contenders.push_back({[&] { int8.Run(); }, CallsPerRound(effort, int8_bytes)});
    int8_limits.AddTo(contenders, CallsPerRound(effort, int8_bytes));
    const std::vector<Series> series = TakeTurns(contenders, effort.rounds);

    const double int8_share = MedianRatio(series[4], series[3]);
    const auto put = [&](const char* codec, const Limits& limits, std::size_t of, const Accuracy& accuracy) -> Json& {
      Json& figure = report.Begin();
      figure["codec"] = codec;
      figure["tokens"] = tokens;
      figure["threads"] = threads;
      PutTimes(figure, series[of]);
      limits.Put(figure, series, of, of + 1);
      figure["share_of_int8"] = figure["share_of_read_only"].get<double>() / int8_share;
      figure["error"] = accuracy.error;
      return figure;
    };
    put("int8", int8_limits, 3, *int8_right);
    report.End();
    Json& figure = put("toy_nibbles", toy_limits, 0, *toy_right);
    figure["target"] = ">= 80 % of int8's share";
    figure["target_met"] = figure["share_of_int8"].get<double>() >= kWanted;
    report.End();
  }
  return {};
}

}  // namespace

int BenchExpander(const Globals& globals, const BenchOptions& options) {
  const auto rows = RowsOf(options, 1);
  if (!rows) return Report(globals, rows.error());
  FigureReport report("expander");
  if (auto done = Measure(options, *rows, report); !done) return Report(globals, done.error());
  report.Print(globals, kColumns);
  return kOk;
}

}  // namespace kvant::tools
