// The parts of `kvantctl bench`. Each verifies its results against the reference before it prints a figure; a wrong result is
// an error, and no figure is printed.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "tools/bench/rows.h"
#include "tools/kvantctl/bench/report.h"

namespace kvant::tools {

struct BenchOptions {
  enum class Length { kFull, kShort };  ///< kShort: a few seconds, that everything runs and is right; figures mean little
  Length length = Length::kFull;
  std::string rows = "random";  ///< or a model's folder
  std::string text;             ///< what that model reads
  std::string keys;             ///< codec specs; empty: those of the project's table
  std::string values;
  std::vector<std::size_t> tokens;  ///< empty: those of the project's table
  std::vector<std::size_t> threads = {1, 2};
  std::size_t rounds = 15;
  std::string socket;  ///< a running daemon's; empty: one is started
};

/// A codec for each side.
struct PlanSpecs {
  std::string keys;
  std::string values;
};

/// What the options ask for, or else `table`.
std::vector<PlanSpecs> PlansOf(const BenchOptions& options, std::vector<PlanSpecs> table);

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

// One per sub-command and file.
int BenchAttend(const Globals& globals, const BenchOptions& options);
int BenchAppend(const Globals& globals, const BenchOptions& options);
int BenchPrefill(const Globals& globals, const BenchOptions& options);
int BenchRpc(const Globals& globals, const BenchOptions& options);
int BenchLocal(const Globals& globals, const BenchOptions& options);
int BenchNeighbour(const Globals& globals, const BenchOptions& options);
int BenchMemory(const Globals& globals, const BenchOptions& options);

}  // namespace kvant::tools
