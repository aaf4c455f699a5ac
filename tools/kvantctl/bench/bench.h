// Benchmarks of an operator: what a daemon does on this machine, seen through the client library. (kvant_bench, in tools/bench,
// measures what is inside: codecs, kernels, the share of a step that is not attention.) Each part checks its results before it
// prints a figure; a wrong result is an error, and no figure is printed.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <vector>

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

/// Adds a part to `bench` with the options that every part has: --short, --keys, --values and --tokens; `app` has the global
/// options. Returns its sub-command, for more.
CLI::App* AddBenchPart(CLI::App& app, CLI::App& bench, Invocation& invocation, const std::string& name, const std::string& what,
                       const std::shared_ptr<BenchOptions>& options,
                       const std::function<int(const Globals&, const BenchOptions&)>& body);

/// The parts of `kvantctl bench`, one per file.
int BenchNeighbour(const Globals& globals, const BenchOptions& options);
int BenchMemory(const Globals& globals, const BenchOptions& options);

}  // namespace kvant::tools
