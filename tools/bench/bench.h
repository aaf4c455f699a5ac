// The parts of kvant_bench.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "quantizers/registry.h"
#include "tools/bench/workload.h"

namespace kvant::tools {

/// Read-only bandwidth by number of threads (index 0 unused), bytes per second.
using Limits = std::array<double, 3>;

/// The workload in use. The codecs' workloads share the memory, so asking for another fills it anew.
class Workloads {
 public:
  /// All outlive this.
  Workloads(const quantizers::Registry& registry, const SampleRows& rows, std::span<std::byte> memory)
      : registry_(registry), rows_(rows), memory_(memory) {}
  /// Keys and values in `spec`.
  const Workload& Get(const std::string& spec, std::size_t tokens);
  /// What the codec declares for normal rows.
  [[nodiscard]] double ExpectedErrorOf(const std::string& spec, quantizers::Side side) const;

 private:
  const quantizers::Registry& registry_;
  const SampleRows& rows_;
  std::span<std::byte> memory_;
  std::unique_ptr<Workload> current_;
};

/// Registers encode, score and accumulate of one codec. `workloads` outlives the run.
void RegisterCodecBenchmarks(Workloads& workloads, const std::string& spec);

/// Registers attention over `tokens` cached tokens with 1 and 2 threads. All outlive the run.
void RegisterAttendBenchmarks(Workloads& workloads, const std::string& spec, std::size_t tokens, const Limits& limits);

/// Ends the program with a message: a wrong result must not get a time.
[[noreturn]] void Abort(const std::string& message);

}  // namespace kvant::tools
