// The parts of kvant_bench, and what they share beside the options. Each checks its results against a plain computation before
// it prints a figure; a wrong result is an error, and no figure is printed.
#pragma once

#include <cstddef>

#include "tools/bench/rows.h"
#include "tools/kvantctl/bench/bench.h"

namespace kvant::tools {

/// The rows that the options ask for. Random ones repeat after 1024 tokens, a model's after 4096 (short form: 512).
Result<SampleRows> RowsOf(const BenchOptions& options, std::size_t query_tokens);

/// Rounds, and bytes that every contender reads per round.
struct Effort {
  std::size_t rounds;
  std::size_t round_bytes;
  std::size_t memory_bytes;  ///< calls come back to the same bytes after so many others
};
Effort EffortOf(const BenchOptions& options);
/// Calls of `bytes` each that make a round.
std::size_t CallsPerRound(const Effort& effort, std::size_t bytes);

// One per file; rpc and local are both in steps.cc.
int BenchAttend(const Globals& globals, const BenchOptions& options);
int BenchExpander(const Globals& globals, const BenchOptions& options);
int BenchAppend(const Globals& globals, const BenchOptions& options);
int BenchCodecs(const Globals& globals, const BenchOptions& options);
int BenchPrefill(const Globals& globals, const BenchOptions& options);
int BenchRpc(const Globals& globals, const BenchOptions& options);
int BenchLocal(const Globals& globals, const BenchOptions& options);
int BenchPolicies(const Globals& globals, const BenchOptions& options);
int BenchSnapshot(const Globals& globals, const BenchOptions& options);
int BenchRestart(const Globals& globals, const BenchOptions& options);

}  // namespace kvant::tools
