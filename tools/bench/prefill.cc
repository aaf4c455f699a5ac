// kvant_bench prefill: attention of many new tokens at once over cached ones, as when a prompt is read behind a shared
// prefix. Arithmetic is the limit: every block's codes serve many queries.
#include <chrono>

#include "quantizers/attention/worker_team.h"
#include "tools/bench/attend_calls.h"
#include "tools/bench/limits.h"
#include "tools/bench/parts.h"
#include "tools/bench/shared_memory.h"

namespace kvant::tools {
namespace {

const std::vector<FigureColumn> kColumns = {{"KEYS", "keys"},
                                            {"VALUES", "values"},
                                            {"TOKENS", "tokens", "%.0f"},
                                            {"NEW", "query_tokens", "%.0f"},
                                            {"THREADS", "threads", "%.0f"},
                                            {"MEDIAN ms", "median_ns", "%.2f", 1e6},
                                            {"P99 ms", "p99_ns", "%.2f", 1e6},
                                            {"us/NEW TOKEN", "query_token_ns", "%.1f", 1e3},
                                            {"MB", "bytes", "%.2f", 1e6},
                                            {"GMAC/s", "macs_per_s", "%.1f", 1e9},
                                            {"PEAK", "peak_macs_per_s", "%.1f", 1e9},
                                            {"OF PEAK %", "share_of_peak", "%.0f", 0.01},
                                            {"INSTRUCTION", "peak_instruction"},
                                            {"OF TILE PEAK %", "share_of_tile_peak", "%.0f", 0.01},
                                            {"OF READ-ONLY %", "share_of_read_only", "%.0f", 0.01},
                                            {"LIMIT", "limit"},
                                            {"ERROR", "error", "%.3g"},
                                            {"HIDDEN %", "hidden_loss", "%.2f", 0.01},
                                            {"TARGET", "target"}};

Result<void> Measure(const BenchOptions& options, const SampleRows& rows, FigureReport& report) {
  const bool full = options.length == BenchOptions::Length::kFull;
  const Effort effort = EffortOf(options);
  const quantizers::Registry registry = quantizers::Registry::Builtin();
  SharedMemory memory(effort.memory_bytes / (full ? 4 : 1));  // arithmetic: bytes need not be rotated so far
  report.head()["rows"] = rows.name;
  const std::vector<PlanSpecs> plans = PlansOf(options, {{"turboquant_mse:bits=2", "turboquant_mse:bits=2"},
                                                         {"turboquant_mse:bits=4", "turboquant_mse:bits=4"},
                                                         {"int8", "int8"}});
  std::vector<std::size_t> lengths = options.tokens;
  if (lengths.empty()) lengths = {full ? std::size_t{32768} : std::size_t{512}};
  for (const std::size_t tokens : lengths) {
    for (const PlanSpecs& plan : plans) {
      auto workload =
          Workload::Make(registry, {.keys = plan.keys, .values = plan.values, .tokens = tokens}, rows, memory.bytes());
      if (!workload) return workload.error();
      for (const std::size_t query_tokens : {rows.query_tokens / 8, rows.query_tokens}) {
        for (const std::size_t threads : options.threads) {
          quantizers::WorkerTeam team(threads - 1, std::chrono::milliseconds(2));
          AttendCalls calls(**workload, team, {.query_tokens = query_tokens});
          const auto right = calls.Check();
          if (!right) return right.error();
          Limits limits(team, (*workload)->memory(), {(*workload)->layer_bytes(), calls.macs()}, ArithmeticOf(plan.keys));
          std::vector<Contender> contenders = {{[&] { calls.Run(); }, full ? std::size_t{3} : std::size_t{1}}};
          limits.AddTo(contenders, 3);
          PeakProbe tiles(team, Arithmetic::kTiles);
          contenders.push_back({[&] { tiles.Run(); }, 1});
          Json& figure = report.Begin();
          figure["keys"] = plan.keys;
          figure["values"] = plan.values;
          figure["tokens"] = tokens;
          figure["query_tokens"] = query_tokens;
          figure["threads"] = threads;
          const std::vector<Series> series = TakeTurns(contenders, full ? (effort.rounds + 1) / 2 : effort.rounds);
          PutTimes(figure, series[0]);
          figure["query_token_ns"] = figure["median_ns"].get<double>() / static_cast<double>(query_tokens);
          limits.Put(figure, series, 0, 1);
          figure["share_of_tile_peak"] = nullptr;
          if ((limits.arithmetic() == Arithmetic::kBytes || plan.keys == "int8") && tiles.macs() > 0.0) {
            figure["share_of_tile_peak"] = MedianRatio(series.back(), series[0]) * calls.macs() / tiles.macs();
          }
          figure["target"] = ">= 50 % of peak";
          figure["target_met"] = figure["share_of_peak"].get<double>() >= 0.5;
          figure["error"] = right->error;
          figure["hidden_loss"] = right->codec_error > 1e-3 ? Json(right->hidden_loss()) : Json(nullptr);
          report.End();
        }
      }
    }
  }
  return {};
}

}  // namespace

int BenchPrefill(const Globals& globals, const BenchOptions& options) {
  const auto rows = RowsOf(options, options.length == BenchOptions::Length::kFull ? 64 : 8);
  if (!rows) return Report(globals, rows.error());
  FigureReport report("prefill");
  if (auto done = Measure(options, *rows, report); !done) return Report(globals, done.error());
  report.Print(globals, kColumns);
  return kOk;
}

}  // namespace kvant::tools
