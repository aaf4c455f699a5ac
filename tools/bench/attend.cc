// kvant_bench attend: one new token's attention over cached tokens, beside the two peers and the limits of the machine.
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "kernels/machine/instructions.h"
#include "quantizers/attention/worker_team.h"
#include "tools/bench/attend_calls.h"
#include "tools/bench/limits.h"
#include "tools/bench/parts.h"
#include "tools/bench/peers/peer_calls.h"
#include "tools/bench/shared_memory.h"

namespace kvant::tools {
namespace {

constexpr std::size_t kBatch = 8;
constexpr std::chrono::milliseconds kSpin(2);  // helpers stay awake from one call to the next

struct Target {
  const char* keys;
  const char* values;
  std::size_t threads;
  double share;  ///< of the read-only sum at 64k tokens
};
constexpr Target kTargets[] = {
    {"turboquant_mse:bits=2", "turboquant_mse:bits=2", 1, 0.60}, {"turboquant_mse:bits=2", "turboquant_mse:bits=2", 2, 0.90},
    {"turboquant_mse:bits=4", "turboquant_mse:bits=2", 1, 0.65}, {"turboquant_mse:bits=4", "turboquant_mse:bits=2", 2, 0.87},
    {"turboquant_mse:bits=4", "turboquant_mse:bits=4", 1, 0.70}, {"turboquant_mse:bits=4", "turboquant_mse:bits=4", 2, 0.85}};
/// Every other codec: within 1.5 times what its bytes or its operations allow.
constexpr double kOfLimit = 1 / 1.5;

const std::vector<FigureColumn> kColumns = {{"CASE", "case"},
                                            {"KEYS", "keys"},
                                            {"VALUES", "values"},
                                            {"TOKENS", "tokens", "%.0f"},
                                            {"THREADS", "threads", "%.0f"},
                                            {"MEDIAN us", "median_ns", "%.1f", 1e3},
                                            {"P99 us", "p99_ns", "%.1f", 1e3},
                                            {"MB", "bytes", "%.2f", 1e6},
                                            {"GB/s", "bytes_per_s", "%.2f", 1e9},
                                            {"READ-ONLY", "read_only_bytes_per_s", "%.2f", 1e9},
                                            {"OF READ-ONLY %", "share_of_read_only", "%.0f", 0.01},
                                            {"OF PEAK %", "share_of_peak", "%.0f", 0.01},
                                            {"LIMIT", "limit"},
                                            {"x f16", "times_faster_than_f16", "%.2f"},
                                            {"x q4_0", "times_faster_than_q4_0", "%.2f"},
                                            {"ERROR", "error", "%.3g"},
                                            {"HIDDEN %", "hidden_loss", "%.2f", 0.01},
                                            {"RATIO", "ratio", "%.2f"},
                                            {"TARGET", "target"}};

void PutAccuracy(Json& figure, const Accuracy& accuracy) {
  figure["error"] = accuracy.error;
  figure["codec_error"] = accuracy.codec_error;
  // Rounding to f16 is so small that the float sums' own error shows beside it.
  figure["hidden_loss"] = accuracy.codec_error > 1e-3 ? Json(accuracy.hidden_loss()) : Json(nullptr);
}

class AttendBench {
 public:
  AttendBench(const BenchOptions& options, const SampleRows& rows)
      : options_(options),
        effort_(EffortOf(options)),
        rows_(rows),
        codes_(effort_.memory_bytes),
        f16_(effort_.memory_bytes),
        q40_(effort_.memory_bytes),
        report_("attend") {}

  Result<void> Run() {
    Describe();
    const bool full = options_.length == BenchOptions::Length::kFull;
    const std::vector<PlanSpecs> plans = PlansOf(options_, {{"turboquant_mse:bits=2", "turboquant_mse:bits=2"},
                                                            {"turboquant_mse:bits=4", "turboquant_mse:bits=2"},
                                                            {"turboquant_mse:bits=4", "turboquant_mse:bits=4"},
                                                            {"int8", "int8"},
                                                            {"f16", "f16"}});
    std::vector<std::size_t> lengths = options_.tokens;
    if (lengths.empty()) lengths = full ? std::vector<std::size_t>{1024, 4096, 65536} : std::vector<std::size_t>{512};
    for (const std::size_t tokens : lengths) {
      for (const std::size_t threads : options_.threads) {
        if (auto done = Decode(plans, tokens, threads); !done) return done;
      }
    }
    if (auto done = Batch(plans.front(), full ? 32768 : 512); !done) return done;
    return OneKvHead(plans.front(), full ? 65536 : 512);
  }

  void Print(const Globals& globals) { report_.Print(globals, kColumns); }

 private:
  void Describe() {
    report_.head()["kernels"] = kernels::Instructions();
    report_.head()["rows"] = rows_.name;
    report_.head()["shape"] = "32 query heads, 8 KV heads, head size 128, blocks of 128 tokens";
    report_.head()["rotation_bytes"] = effort_.memory_bytes;
    for (const std::size_t threads : {1, 2}) {
      report_.head()["read_only_GBps_" + std::to_string(threads) + (threads == 1 ? "_thread" : "_threads")] =
          ReadBandwidth(codes_.bytes(), threads, 3) * 1e-9;
    }
  }

  /// All plans and both peers at one length, in turn.
  Result<void> Decode(const std::vector<PlanSpecs>& plans, std::size_t tokens, std::size_t threads) {
    quantizers::WorkerTeam team(threads - 1, kSpin);
    PeerCalls f16(kF16Peer, rows_, tokens, team, f16_.bytes());
    PeerCalls q40(kQ40Peer, rows_, tokens, team, q40_.bytes());
    if (auto done = Peer("f16", f16, f16_.bytes(), tokens, threads, Arithmetic::kFloats, team); !done) return done;
    if (auto done = Peer("q4_0", q40, q40_.bytes(), tokens, threads, Arithmetic::kBytes, team); !done) return done;
    for (const PlanSpecs& plan : plans) {
      auto workload =
          Workload::Make(registry_, {.keys = plan.keys, .values = plan.values, .tokens = tokens}, rows_, codes_.bytes());
      if (!workload) return workload.error();
      AttendCalls calls(**workload, team, {});
      const auto right = calls.Check();
      if (!right) return right.error();
      Limits limits(team, (*workload)->memory(), {(*workload)->layer_bytes(), calls.macs()}, ArithmeticOf(plan.keys));
      const std::size_t per_round = CallsPerRound(effort_, (*workload)->layer_bytes());
      std::vector<Contender> contenders = {{[&] { calls.Run(); }, per_round}};
      limits.AddTo(contenders, per_round);
      contenders.push_back({[&] { f16.Run(); }, CallsPerRound(effort_, f16.bytes())});
      contenders.push_back({[&] { q40.Run(); }, CallsPerRound(effort_, q40.bytes())});

      Json& figure = Begin("decode", plan, tokens, threads);
      const std::vector<Series> series = TakeTurns(contenders, effort_.rounds);
      PutTimes(figure, series[0]);
      limits.Put(figure, series, 0, 1);
      figure["times_faster_than_f16"] = MedianRatio(series[3], series[0]);
      figure["times_faster_than_q4_0"] = MedianRatio(series[4], series[0]);
      PutAccuracy(figure, *right);
      PutTarget(figure, plan, tokens, threads);
      report_.End();
    }
    return {};
  }

  Result<void> Peer(const char* name, PeerCalls& peer, std::span<const std::byte> memory, std::size_t tokens,
                    std::size_t threads, Arithmetic arithmetic, quantizers::Executor& team) {
    const auto right = peer.Check();
    if (!right) return right.error();
    const double macs = 2.0 * kHeadDim * static_cast<double>(kKvHeads * kGroup * tokens);
    Limits limits(team, memory, {peer.bytes(), macs}, arithmetic);
    const std::size_t per_round = CallsPerRound(effort_, peer.bytes());
    std::vector<Contender> contenders = {{[&] { peer.Run(); }, per_round}};
    limits.AddTo(contenders, per_round);
    Json& figure = Begin("peer", {name, name}, tokens, threads);
    const std::vector<Series> series = TakeTurns(contenders, effort_.rounds);
    PutTimes(figure, series[0]);
    limits.Put(figure, series, 0, 1);
    PutAccuracy(figure, *right);
    report_.End();
    return {};
  }

  /// Several sequences that share their whole prefix, in one call.
  Result<void> Batch(const PlanSpecs& plan, std::size_t tokens) {
    const std::size_t threads = options_.threads.back();
    quantizers::WorkerTeam team(threads - 1, kSpin);
    auto workload =
        Workload::Make(registry_, {.keys = plan.keys, .values = plan.values, .tokens = tokens}, rows_, codes_.bytes());
    if (!workload) return workload.error();
    AttendCalls one(**workload, team, {});
    AttendCalls many(**workload, team, {.batch = kBatch});
    const auto right = many.Check();
    if (!right) return right.error();
    const std::size_t per_round = CallsPerRound(effort_, (*workload)->layer_bytes());
    const std::vector<Contender> contenders = {{[&] { one.Run(); }, per_round}, {[&] { many.Run(); }, per_round}};
    Json& figure = Begin("batch of 8 / one", plan, tokens, threads);
    const std::vector<Series> series = TakeTurns(contenders, effort_.rounds);
    PutTimes(figure, series[1]);
    PutAccuracy(figure, *right);
    figure["ratio"] = MedianRatio(series[1], series[0]);
    figure["target"] = "ratio <= 2";
    report_.End();
    return {};
  }

  /// One sequence with one KV head: only its length can be shared out among threads.
  Result<void> OneKvHead(const PlanSpecs& plan, std::size_t tokens) {
    auto workload = Workload::Make(registry_, {.keys = plan.keys, .values = plan.values, .kv_heads = 1, .tokens = tokens},
                                   rows_, codes_.bytes());
    if (!workload) return workload.error();
    quantizers::WorkerTeam alone(0);
    quantizers::WorkerTeam pair(1, kSpin);
    AttendCalls one(**workload, alone, {});
    AttendCalls two(**workload, pair, {});
    if (auto right = one.Check(); !right) return right.error();
    const auto right = two.Check();
    if (!right) return right.error();
    const std::size_t per_round = CallsPerRound(effort_, (*workload)->layer_bytes());
    const std::vector<Contender> contenders = {{[&] { one.Run(); }, per_round}, {[&] { two.Run(); }, per_round}};
    Json& figure = Begin("one KV head, 1 / 2 threads", plan, tokens, 2);
    const std::vector<Series> series = TakeTurns(contenders, effort_.rounds);
    PutTimes(figure, series[1]);
    PutAccuracy(figure, *right);
    figure["ratio"] = MedianRatio(series[0], series[1]);
    report_.End();
    return {};
  }

  Json& Begin(const char* what, const PlanSpecs& plan, std::size_t tokens, std::size_t threads) {
    Json& figure = report_.Begin();
    figure["case"] = what;
    figure["keys"] = plan.keys;
    figure["values"] = plan.values;
    figure["tokens"] = tokens;
    figure["threads"] = threads;
    return figure;
  }

  static void PutTarget(Json& figure, const PlanSpecs& plan, std::size_t tokens, std::size_t threads) {
    if (tokens != 65536) return;
    const double bytes = figure["share_of_read_only"], operations = figure["share_of_peak"];
    if (!plan.keys.starts_with("turboquant") && plan.keys == plan.values) {
      figure["target"] = ">= 67 % of its limit";
      figure["target_met"] = std::max(bytes, operations) >= kOfLimit;
    }
    for (const Target& target : kTargets) {
      if (plan.keys != target.keys || plan.values != target.values || threads != target.threads) continue;
      figure["target"] = ">= " + std::to_string(static_cast<int>(100 * target.share + 0.5)) + " % of read-only";
      figure["target_met"] = bytes >= target.share;
    }
  }

  const BenchOptions& options_;
  Effort effort_;
  const SampleRows& rows_;
  quantizers::Registry registry_ = quantizers::Registry::Builtin();
  SharedMemory codes_;
  SharedMemory f16_;
  SharedMemory q40_;
  FigureReport report_;
};

}  // namespace

int BenchAttend(const Globals& globals, const BenchOptions& options) {
  const auto rows = RowsOf(options, kBatch);
  if (!rows) return Report(globals, rows.error());
  AttendBench bench(options, *rows);
  if (auto done = bench.Run(); !done) return Report(globals, done.error());
  bench.Print(globals);
  return kOk;
}

}  // namespace kvant::tools
