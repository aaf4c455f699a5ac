// kvant_bench: times codecs and attention, after checking that what is timed is right. README.md beside this file has the
// method.
//   kvant_bench                  everything (several minutes)
//   kvant_bench --short          small sizes, moments: that the benchmarks run and their results are right
//   kvant_bench --benchmark_...  Google Benchmark's own options, for example --benchmark_filter=attend/turboquant_mse
#include <benchmark/benchmark.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "tools/bench/bandwidth.h"
#include "tools/bench/bench.h"
#include "tools/bench/shared_memory.h"
#include "tools/codec_specs.h"

namespace {

struct Sizes {
  std::size_t memory_bytes;
  std::vector<std::size_t> tokens;
  std::size_t bandwidth_rounds;
};

// A cache of 64k tokens at f32 in two layers takes 1 GiB; a smaller codec's rotation over 64k tokens still covers >= 512 MiB.
const Sizes kFull = {std::size_t{1} << 30, {1024, 4096, 16384, 65536}, 5};
const Sizes kShort = {std::size_t{64} << 20, {1024}, 1};

bool TakeShortFlag(int& argc, char** argv) {
  bool found = false;
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--short") == 0) {
      found = true;
    } else {
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
  return found;
}

}  // namespace

namespace kvant::tools {

const Workload& Workloads::Get(const std::string& spec, std::size_t tokens) {
  if (current_ == nullptr || current_->form().keys != spec || current_->form().tokens != tokens) {
    current_.reset();
    auto made = Workload::Make(registry_, {.keys = spec, .values = spec, .tokens = tokens}, rows_, memory_);
    if (!made) Abort(spec + ": " + made.error().message);
    current_ = std::move(*made);
  }
  return *current_;
}

double Workloads::ExpectedErrorOf(const std::string& spec, quantizers::Side side) const {
  const auto error = ExpectedError(registry_, spec, side, kHeadDim);
  if (!error) Abort(error.error().message);
  return *error;
}

void Abort(const std::string& message) {
  std::fprintf(stderr, "kvant_bench: %s\n", message.c_str());
  std::exit(1);
}

}  // namespace kvant::tools

int main(int argc, char** argv) {
  using namespace kvant;         // NOLINT(google-build-using-namespace)
  using namespace kvant::tools;  // NOLINT(google-build-using-namespace)
  const bool quick = TakeShortFlag(argc, argv);
  const Sizes& sizes = quick ? kShort : kFull;
  std::vector<char*> arguments(argv, argv + argc);
  std::string moments = "--benchmark_min_time=0.001";
  if (quick) arguments.push_back(moments.data());
  int count = static_cast<int>(arguments.size());
  benchmark::Initialize(&count, arguments.data());
  if (benchmark::ReportUnrecognizedArguments(count, arguments.data())) return 2;

  SharedMemory memory(sizes.memory_bytes);
  Limits limits{};
  for (std::size_t threads = 1; threads < limits.size(); ++threads) {
    limits[threads] = ReadBandwidth(memory.bytes(), threads, sizes.bandwidth_rounds);
    char text[32];
    std::snprintf(text, sizeof(text), "%.1f GB/s", limits[threads] * 1e-9);
    benchmark::AddCustomContext("read_only_bandwidth_" + std::to_string(threads) + "_threads", text);
  }

  const quantizers::Registry registry = quantizers::Registry::Builtin();
  const SampleRows rows = NormalSample(8 * kBlockTokens, 1);
  Workloads workloads(registry, rows, memory.bytes());
  for (const quantizers::Codec* codec : registry.codecs()) {
    for (const std::string& spec : CodecSpecs(*codec)) {
      RegisterCodecBenchmarks(workloads, spec);
      for (const std::size_t tokens : sizes.tokens) RegisterAttendBenchmarks(workloads, spec, tokens, limits);
    }
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
