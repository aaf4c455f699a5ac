// kvant_eviction_bench: what each eviction policy finds of traces shaped like real use, beside the optimum that knows the
// future. Prints the table of tools/bench/README.md. No policy may beat the optimum: that would be a fault of this program.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "tools/bench/eviction/replay.h"

namespace {

int Run(std::uint32_t requests, const std::vector<std::uint32_t>& shares) {
  using namespace kvant;  // NOLINT(google-build-using-namespace)
  std::printf("| trace | cache, %% of all blocks | lru | lfu | s3fifo | none | optimum |\n|---|---|---|---|---|---|---|\n");
  for (const tools::Trace& trace :
       {tools::ChatTrace(requests), tools::AgentTrace(requests), tools::DocumentTrace(requests), tools::ScanTrace(requests)}) {
    const std::size_t footprint = tools::Footprint(trace);
    for (const std::uint32_t share : shares) {
      const std::size_t capacity = footprint * share / 100;
      const tools::Found optimum = tools::ReplayOptimum(trace, capacity);
      std::printf("| %s | %u", trace.name.c_str(), share);
      for (const auto& [name, kind] : kEvictionKinds) {
        const tools::Found found = tools::Replay(trace, kind, capacity);
        if (found.hits > optimum.hits || found.blocks != optimum.blocks) {
          std::fprintf(stderr, "%s finds more than the optimum on %s\n", std::string(name).c_str(), trace.name.c_str());
          return 1;
        }
        std::printf(" | %.1f", 100 * found.rate());
      }
      std::printf(" | %.1f |\n", 100 * optimum.rate());
      std::fflush(stdout);
    }
  }
  std::printf(
      "\n| trace | cache, %% of all blocks | lru | lru, cold blocks at 2 of %zu planes | of what that finds, coarse |\n"
      "|---|---|---|---|---|\n",
      tools::kReplayPlanes);
  for (const tools::Trace& trace :
       {tools::ChatTrace(requests), tools::AgentTrace(requests), tools::DocumentTrace(requests), tools::ScanTrace(requests)}) {
    for (const std::uint32_t share : shares) {
      const std::size_t capacity = tools::Footprint(trace) * share / 100;
      const tools::Found whole = tools::Replay(trace, EvictionKind::kLru, capacity);
      const tools::Found demoted = tools::Replay(trace, EvictionKind::kLru, capacity, 2);
      std::printf("| %s | %u | %.1f | %.1f | %.1f |\n", trace.name.c_str(), share, 100 * whole.rate(), 100 * demoted.rate(),
                  100.0 * static_cast<double>(demoted.coarse) / static_cast<double>(std::max<std::uint64_t>(demoted.hits, 1)));
      std::fflush(stdout);
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Hit rates in % of blocks of each eviction policy, and of the optimum that knows the future",
               "kvant_eviction_bench"};
  std::uint32_t requests = 6'000;
  std::vector<std::uint32_t> shares = {2, 5, 10, 25};
  app.add_option("--requests", requests, "Prompts of each trace")->check(CLI::Range(100U, 1'000'000U))->capture_default_str();
  app.add_option("--shares", shares, "Sizes of the cache, in % of the different blocks of a trace")
      ->delimiter(',')
      ->check(CLI::Range(1U, 100U))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  return Run(requests, shares);
}
