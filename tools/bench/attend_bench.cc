// One decoded token's attention over a cache of sealed blocks.
#include <benchmark/benchmark.h>

#include <chrono>

#include "quantizers/attention/worker_team.h"
#include "tools/bench/attend_calls.h"
#include "tools/bench/bench.h"

namespace kvant::tools {
namespace {

void BenchAttend(benchmark::State& state, const Workload& workload, const Limits& limits) {
  const auto threads = static_cast<std::size_t>(state.range(0));
  quantizers::WorkerTeam team(threads - 1, std::chrono::milliseconds(2));
  AttendCalls calls(workload, team, {});
  if (auto right = calls.Check(); !right) Abort(right.error().message);
  const auto start = std::chrono::steady_clock::now();
  for (auto _ : state) calls.Run();
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  const auto bytes = static_cast<double>(workload.layer_bytes());
  const double speed = bytes * static_cast<double>(state.iterations()) / time.count();
  state.counters["bytes"] = bytes;
  state.counters["bytes/s"] = speed;
  state.counters["of_limit"] = speed / limits[threads];
}

}  // namespace

void RegisterAttendBenchmarks(Workloads& workloads, const std::string& spec, std::size_t tokens, const Limits& limits) {
  const std::string name = "attend/" + spec + "/tokens:" + std::to_string(tokens);
  auto* bench = benchmark::RegisterBenchmark(name.c_str(), [&workloads, spec, tokens, &limits](benchmark::State& state) {
    BenchAttend(state, workloads.Get(spec, tokens), limits);
  });
  bench->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMicrosecond);
}

}  // namespace kvant::tools
