// One decoded token's attention over a cache of sealed blocks, as an engine calls it layer by layer: each call reads another
// layer or another sequence, so that a large cache comes from memory, not from a processor cache that strangers share.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cmath>
#include <memory>

#include "quantizers/attention.h"
#include "quantizers/worker_team.h"
#include "tools/bench/bench.h"
#include "tools/bench/workload.h"

namespace kvant::tools {
namespace {

const float kScale = 1.0f / std::sqrt(static_cast<float>(kHeadDim));

class Call {
 public:
  Call(const Workload& w, std::size_t tokens, std::size_t threads)
      : workload_(w),
        tokens_(tokens),
        team_(threads - 1, std::chrono::milliseconds(2)),
        attention_(team_),
        out_(w.queries().size()) {
    for (std::size_t first = 0; first + tokens / kBlockTokens <= w.slots(); first += tokens / kBlockTokens) {
      for (std::size_t layer = 0; layer < kLayers; ++layer) items_.push_back(Item(first, layer));
    }
    if (items_.empty()) Abort("memory too small for " + std::to_string(tokens) + " tokens of " + w.spec());
  }

  void Run() {
    attention_.Run({&items_[next_], 1});
    next_ = (next_ + 1) % items_.size();
  }

  void Check(double bound) {
    if (auto shapes = quantizers::CheckItem(items_[0]); !shapes) Abort(shapes.error().message);
    attention_.Run({items_.data(), 1});
    const double error = RelativeRms(out_, workload_.Reference(0, tokens_, static_cast<double>(kScale)));
    if (!(error <= bound)) {
      Abort(workload_.spec() + ", " + std::to_string(tokens_) + " tokens: attention differs from the plain computation by " +
            std::to_string(error) + ", more than " + std::to_string(bound));
    }
  }

 private:
  quantizers::AttendItem Item(std::size_t first_slot, std::size_t layer) {
    quantizers::AttendItem item;
    item.cache.plan = &workload_.plan();
    item.cache.layer = layer;
    item.cache.blocks = workload_.Blocks(first_slot, tokens_);
    item.query.q = {workload_.queries().data(), ElementType::kF32, 1, kQueryHeads, kHeadDim, kQueryHeads * kHeadDim, kHeadDim};
    item.query.out = {out_.data(), ElementType::kF32, 1, kQueryHeads, kHeadDim, kQueryHeads * kHeadDim, kHeadDim};
    item.query.first_position = tokens_ - 1;
    item.query.scale = kScale;
    return item;
  }

  const Workload& workload_;
  std::size_t tokens_;
  quantizers::WorkerTeam team_;
  quantizers::Attention attention_;
  std::vector<float> out_;
  std::vector<quantizers::AttendItem> items_;
  std::size_t next_ = 0;
};

void BenchAttend(benchmark::State& state, const Workload& w, std::size_t tokens, double bound, const Limits& limits) {
  const auto threads = static_cast<std::size_t>(state.range(0));
  Call call(w, tokens, threads);
  call.Check(bound);
  const auto start = std::chrono::steady_clock::now();
  for (auto _ : state) call.Run();
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  const auto bytes = static_cast<double>(w.token_bytes() * tokens);
  const double speed = bytes * static_cast<double>(state.iterations()) / time.count();
  state.counters["bytes"] = bytes;
  state.counters["bytes/s"] = speed;
  state.counters["of_limit"] = speed / limits[threads];
}

}  // namespace

void RegisterAttendBenchmarks(Workloads& workloads, const std::string& spec, std::size_t tokens, const Limits& limits) {
  // The hidden losses of keys and values add up; the softmax passes a logit's error on to its weight.
  const double bound = HiddenLossBound(workloads.GaussianError(spec, quantizers::Side::kKeys)) +
                       HiddenLossBound(workloads.GaussianError(spec, quantizers::Side::kValues));
  const std::string name = "attend/" + spec + "/tokens:" + std::to_string(tokens);
  auto* bench = benchmark::RegisterBenchmark(name.c_str(), [&workloads, spec, tokens, bound, &limits](benchmark::State& state) {
    BenchAttend(state, workloads.Get(spec), tokens, bound, limits);
  });
  bench->ArgName("threads")->Arg(1)->Arg(2)->UseRealTime()->Unit(benchmark::kMicrosecond);
}

}  // namespace kvant::tools
