// Options of benchmarks: those of `kvantctl bench` and of kvant_bench alike.
#include <CLI/CLI.hpp>
#include <memory>
#include <utility>

#include "tools/bench/rows.h"
#include "tools/kvantctl/bench/bench.h"

namespace kvant::tools {

std::vector<PlanSpecs> PlansOf(const BenchOptions& options, std::vector<PlanSpecs> table) {
  if (options.keys.empty() && options.values.empty()) return table;
  return {{options.keys.empty() ? options.values : options.keys, options.values.empty() ? options.keys : options.values}};
}

CLI::App* AddBenchPart(CLI::App& app, CLI::App& bench, Invocation& invocation, const std::string& name, const std::string& what,
                       const std::shared_ptr<BenchOptions>& options,
                       const std::function<int(const Globals&, const BenchOptions&)>& body) {
  CLI::App* part = bench.add_subcommand(name, what);
  part->add_flag_callback(
      "--short", [options] { options->length = BenchOptions::Length::kShort; },
      "Small sizes, few rounds: that everything runs and is right");
  part->add_option("--keys", options->keys, "Codec of the keys; default: those of the project's table");
  part->add_option("--values", options->values, "Codec of the values");
  part->add_option("--tokens", options->tokens, "Cached tokens: multiples of 128")
      ->delimiter(',')
      ->check(CLI::Range(128U, 1U << 20))
      ->check([](const std::string& text) { return std::stoul(text) % kBlockTokens == 0 ? "" : "not a multiple of 128"; });
  part->callback([&app, &invocation, options, body] {
    if (app.get_option("--socket")->count() > 0) options->socket = invocation.globals.socket;
    invocation.exit_code = body(invocation.globals, *options);
  });
  return part;
}

}  // namespace kvant::tools
