// kvant_bench policies: one new token's attention over the tokens that a policy keeps, beside attention over all of them.
#include <algorithm>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "quantizers/attention/worker_team.h"
#include "tools/bench/attend_calls.h"
#include "tools/bench/parts.h"
#include "tools/bench/shared_memory.h"

namespace kvant::tools {
namespace {

constexpr std::size_t kBudget = 2048;
constexpr std::size_t kWindow = 32;
constexpr std::size_t kSinks = 4;

const std::vector<FigureColumn> kColumns = {{"POLICY", "policy"},
                                            {"KEYS", "keys"},
                                            {"VALUES", "values"},
                                            {"TOKENS", "tokens", "%.0f"},
                                            {"KEPT", "kept", "%.0f"},
                                            {"BLOCKS READ %", "share_of_blocks", "%.0f", 0.01},
                                            {"MEDIAN us", "median_ns", "%.1f", 1e3},
                                            {"ALL us", "all_median_ns", "%.1f", 1e3},
                                            {"x ALL", "times_faster_than_all", "%.2f"}};

/// What a policy keeps. Lists: sinks, the newest tokens and clusters of adjacent ones at places drawn for each KV head.
struct Kept {
  std::string name;
  quantizers::KeptTokens tokens;
  std::vector<std::uint64_t> bits;
};

Kept Clusters(std::size_t tokens, std::size_t adjacent) {
  Kept kept{.name = "list, runs of " + std::to_string(adjacent), .tokens = {}, .bits = {}};
  const std::size_t words = quantizers::KeptTokens::WordsOf(tokens);
  kept.bits.assign(kKvHeads * words, 0);
  std::mt19937_64 random(tokens + adjacent);
  for (std::size_t head = 0; head < kKvHeads; ++head) {
    std::size_t left = std::min(kBudget, tokens);
    const auto keep = [&](std::size_t p) {
      std::uint64_t& word = kept.bits[head * words + p / 64];
      const std::uint64_t bit = std::uint64_t{1} << (p % 64);
      if (left > 0 && (word & bit) == 0) word |= bit, --left;
    };
    for (std::size_t p = 0; p < std::min(kSinks, tokens); ++p) keep(p);
    for (std::size_t p = tokens - std::min(kWindow, tokens); p < tokens; ++p) keep(p);
    while (left > 0) {
      const std::size_t first = random() % tokens;
      for (std::size_t p = first; p < std::min(first + adjacent, tokens); ++p) keep(p);
    }
  }
  kept.tokens = {.bits = kept.bits.data(), .words = words, .end = tokens};
  return kept;
}

double ShareOfBlocks(const quantizers::KeptTokens& kept, std::size_t tokens) {
  std::size_t read = 0;
  const std::size_t blocks = tokens / kBlockTokens;
  for (std::size_t head = 0; head < kKvHeads; ++head) {
    for (std::size_t b = 0; b < blocks; ++b) {
      read += kept.Has(head, {b * kBlockTokens, (b + 1) * kBlockTokens}, kept.Gap(tokens - 1)) ? 1 : 0;
    }
  }
  return static_cast<double>(read) / static_cast<double>(blocks * kKvHeads);
}

Result<void> Measure(const BenchOptions& options, const SampleRows& rows, FigureReport& report) {
  const bool full = options.length == BenchOptions::Length::kFull;
  const Effort effort = EffortOf(options);
  const quantizers::Registry registry = quantizers::Registry::Builtin();
  SharedMemory memory(effort.memory_bytes);
  report.head()["rows"] = rows.name;
  report.head()["budget"] = kBudget;
  std::vector<std::size_t> lengths = options.tokens;
  if (lengths.empty()) lengths = full ? std::vector<std::size_t>{32768, 65536, 131072} : std::vector<std::size_t>{8192};
  quantizers::WorkerTeam alone(0);
  for (const std::size_t tokens : lengths) {
    for (const PlanSpecs& plan : PlansOf(options, {{"turboquant_mse:bits=4", "turboquant_mse:bits=2"}})) {
      auto workload =
          Workload::Make(registry, {.keys = plan.keys, .values = plan.values, .tokens = tokens}, rows, memory.bytes());
      if (!workload) return workload.error();
      AttendCalls all(**workload, alone, {});
      std::vector<Kept> policies;
      policies.push_back(
          {.name = "window:tokens=2044,sinks=4", .tokens = {.window = kBudget - kSinks, .sinks = kSinks}, .bits = {}});
      for (const std::size_t adjacent : {1, 7, 64, 128}) policies.push_back(Clusters(tokens, adjacent));
      for (const Kept& kept : policies) {
        AttendCalls some(**workload, alone, {.kept = kept.tokens});
        if (auto right = some.Check(); !right) return right.error();
        const std::size_t per_round = CallsPerRound(effort, (*workload)->layer_bytes());
        const std::vector<Series> series =
            TakeTurns(std::vector<Contender>{{[&] { all.Run(); }, per_round}, {[&] { some.Run(); }, per_round}}, effort.rounds);
        Json& figure = report.Begin();
        figure["policy"] = kept.name;
        figure["keys"] = plan.keys;
        figure["values"] = plan.values;
        figure["tokens"] = tokens;
        figure["kept"] = std::min(kBudget, tokens);
        figure["share_of_blocks"] = ShareOfBlocks(kept.tokens, tokens);
        figure["median_ns"] = Median(series[1].calls_ns);
        figure["all_median_ns"] = Median(series[0].calls_ns);
        figure["times_faster_than_all"] = MedianRatio(series[0], series[1]);
        report.End();
      }
    }
  }
  return {};
}

}  // namespace

int BenchPolicies(const Globals& globals, const BenchOptions& options) {
  const auto rows = RowsOf(options, 1);
  if (!rows) return Report(globals, rows.error());
  FigureReport report("policies");
  if (auto done = Measure(options, *rows, report); !done) return Report(globals, done.error());
  report.Print(globals, kColumns);
  return kOk;
}

}  // namespace kvant::tools
