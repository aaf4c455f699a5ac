// kvant_bench rpc and local: what the client library and the daemon add to a decoding step's computation, and what sealing
// adds to the slowest steps. tools/bench/step_latency measures; here daemons are started and figures printed.
#include <chrono>
#include <memory>
#include <string>
#include <utility>

#include "tools/bench/parts.h"
#include "tools/bench/step_latency.h"
#include "tools/kvantctl/bench/daemon_process.h"

namespace kvant::tools {
namespace {

/// Both sides spin this long for the next message, or not at all.
struct Mode {
  const char* name;
  std::chrono::microseconds spin;
  const char* rpc_target;
  double rpc_median_us;
  double rpc_p99_us;
};
constexpr Mode kModes[] = {{"blocking", std::chrono::microseconds(0), "<= 40 (90) us", 40, 90},
                           {"spinning", std::chrono::microseconds(200), "<= 16 (25) us", 16, 25}};

const std::vector<FigureColumn> kColumns = {{"CASE", "case"},
                                            {"MODE", "mode"},
                                            {"STEP us", "step_median_us", "%.1f"},
                                            {"P99", "step_p99_us", "%.1f"},
                                            {"COMPUTE us", "compute_median_us", "%.1f"},
                                            {"P99", "compute_p99_us", "%.1f"},
                                            {"STEP - COMPUTE us", "overhead_median_us", "%.1f"},
                                            {"P99", "overhead_p99_us", "%.1f"},
                                            {"CALLS", "calls_per_step", "%.2f"},
                                            {"COPIED B", "bytes_copied_per_step", "%.1f"},
                                            {"FAULTS", "page_faults_per_step", "%.3f"},
                                            {"P99 RATIO", "p99_ratio", "%.2f"},
                                            {"TARGET", "target"}};

void Put(Json& figure, const std::string& what, const Spread& spread) {
  figure[what + "_median_us"] = spread.median_us;
  figure[what + "_p99_us"] = spread.p99_us;
}

/// For compare.sh, which knows times in ns only.
void PutTime(Json& figure, const Spread& spread) {
  figure["median_ns"] = 1e3 * spread.median_us;
  figure["p99_ns"] = 1e3 * spread.p99_us;
}

class StepBench {
 public:
  StepBench(const BenchOptions& options, Placement placement)
      : options_(options), placement_(placement), report_(placement == Placement::kLocal ? "local" : "rpc") {}

  Result<void> Run() {
    const StepShape shape;
    report_.head()["shape"] = "one layer of 8 KV heads, 32 query heads, head size 128; sealing: tokens of several layers";
    report_.head()["keys"] = options_.keys.empty() ? shape.keys : options_.keys;
    report_.head()["values"] = options_.values.empty() ? shape.values : options_.values;
    if (auto done = Socket(); !done) return done;
    for (const Mode& mode : kModes) {
      std::unique_ptr<DaemonProcess> daemon;
      std::string socket = options_.socket;
      if (socket.empty()) {
        auto started = DaemonProcess::Start({"--spin", std::to_string(mode.spin.count())});
        if (!started) return started.error();
        daemon = std::move(*started);
        socket = daemon->socket();
      }
      if (auto done = Steps(socket, mode); !done) return done;
      if (auto done = Sealing(socket, mode); !done) return done;
    }
    return {};
  }

  void Print(const Globals& globals) { report_.Print(globals, kColumns); }

 private:
  [[nodiscard]] bool full() const { return options_.length == BenchOptions::Length::kFull; }

  template <typename Options>
  void Choose(Options& options, const std::string& socket, const Mode& mode) const {
    options.socket = socket;
    options.spin = mode.spin;
    if (!options_.keys.empty()) options.shape.keys = options_.keys;
    if (!options_.values.empty()) options.shape.values = options_.values;
    if (!options_.tokens.empty()) options.context_tokens = options_.tokens.front();
  }

  /// What the machine's sockets take without any of our code.
  Result<void> Socket() {
    Json& blocking = Begin("64 bytes over a socket", "blocking");
    const auto latency = MeasureSocket(full() ? 5000 : 100);
    if (!latency) return latency.error();
    Put(blocking, "step", latency->blocking);
    PutTime(blocking, latency->blocking);
    report_.End();
    Json& spinning = Begin("64 bytes over a socket", "spinning");
    Put(spinning, "step", latency->spinning);
    PutTime(spinning, latency->spinning);
    report_.End();
    return {};
  }

  Result<void> Steps(const std::string& socket, const Mode& mode) {
    StepOptions options;
    Choose(options, socket, mode);
    if (!full()) options.steps = 60;
    Json& figure = Begin(placement_ == Placement::kLocal ? "local step" : "service step", mode.name);
    figure["context_tokens"] = options.context_tokens;
    figure["steps"] = options.steps;
    const auto latency = MeasureSteps(options);
    if (!latency) return latency.error();
    const StepTimes& times = placement_ == Placement::kLocal ? latency->local : latency->service;
    Put(figure, "step", times.step);
    Put(figure, "compute", times.compute);
    Put(figure, "overhead", times.overhead);
    PutTime(figure, times.overhead);
    figure["calls_per_step"] = times.calls_per_step;
    figure["bytes_copied_per_step"] = times.bytes_copied_per_step;
    figure["page_faults_per_step"] = times.page_faults_per_step;
    if (placement_ == Placement::kService) {
      figure["target"] = mode.rpc_target;
      figure["target_met"] = times.overhead.median_us <= mode.rpc_median_us && times.overhead.p99_us <= mode.rpc_p99_us;
    } else {
      figure["target"] = "<= 1 us";
      figure["target_met"] = times.overhead.median_us <= 1.0;
    }
    report_.End();
    if (placement_ == Placement::kLocal) return {};
    Json& ping = Begin("ping", mode.name);
    Put(ping, "step", latency->ping);
    PutTime(ping, latency->ping);
    report_.End();
    return {};
  }

  Result<void> Sealing(const std::string& socket, const Mode& mode) {
    SealOptions options;
    Choose(options, socket, mode);
    options.placement = placement_;
    if (!full()) {
      options.shape.layers = 2;
      options.blocks = 1;
      options.rounds = 1;
    }
    Json& with = Begin("token while blocks are sealed", mode.name);
    const auto latency = MeasureSealing(options);
    if (!latency) return latency.error();
    with["token_layers"] = options.shape.layers;
    with["sealed_blocks"] = latency->sealed_blocks;
    Put(with, "step", latency->sealing);
    PutTime(with, latency->sealing);
    with["p99_ratio"] = latency->p99_ratio;
    with["target"] = "p99 <= 1.5 x without";
    with["target_met"] = latency->p99_ratio <= 1.5;
    report_.End();
    Json& without = Begin("token without sealing", mode.name);
    Put(without, "step", latency->without);
    PutTime(without, latency->without);
    report_.End();
    return {};
  }

  Json& Begin(const char* what, const char* mode) {
    Json& figure = report_.Begin();
    figure["case"] = what;
    figure["mode"] = mode;
    return figure;
  }

  const BenchOptions& options_;
  Placement placement_;
  FigureReport report_;
};

int BenchSteps(const Globals& globals, const BenchOptions& options, Placement placement) {
  StepBench bench(options, placement);
  if (auto done = bench.Run(); !done) return Report(globals, done.error());
  bench.Print(globals);
  return kOk;
}

}  // namespace

int BenchRpc(const Globals& globals, const BenchOptions& options) { return BenchSteps(globals, options, Placement::kService); }
int BenchLocal(const Globals& globals, const BenchOptions& options) { return BenchSteps(globals, options, Placement::kLocal); }

}  // namespace kvant::tools
