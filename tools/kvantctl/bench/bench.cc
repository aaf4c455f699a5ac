// kvantctl bench: the command line.
#include "tools/kvantctl/bench/bench.h"

#include <CLI/CLI.hpp>
#include <memory>

namespace kvant::tools {

void AddBench(CLI::App& app, Invocation& invocation) {
  CLI::App* bench = app.add_subcommand("bench", "Measure a daemon on this machine, after checking that its results are right");
  bench->require_subcommand(1);
  AddBenchPart(app, *bench, invocation, "neighbour", "Calls of one client while another's prompt is read",
               std::make_shared<BenchOptions>(), BenchNeighbour);
  AddBenchPart(app, *bench, invocation, "memory",
               "What a daemon occupies for what it holds; page faults and copies per step (without --socket: of its own)",
               std::make_shared<BenchOptions>(), BenchMemory);
}

}  // namespace kvant::tools
