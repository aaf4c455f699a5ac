// The parts of kvant_bench.
#pragma once

#include <array>
#include <cstddef>
#include <string>

namespace kvant::tools {

class Workloads;

/// Read-only bandwidth by number of threads (index 0 unused), bytes per second.
using Limits = std::array<double, 3>;

/// Registers encode, score and accumulate of one codec. `workloads` outlives the run.
void RegisterCodecBenchmarks(Workloads& workloads, const std::string& spec);

/// Registers attention over `tokens` cached tokens with 1 and 2 threads. All outlive the run.
void RegisterAttendBenchmarks(Workloads& workloads, const std::string& spec, std::size_t tokens, const Limits& limits);

}  // namespace kvant::tools
