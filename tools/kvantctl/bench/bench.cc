// kvantctl bench: the command line, and what its sub-commands share.
#include "tools/kvantctl/bench/bench.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

namespace kvant::tools {
namespace {

using Body = int (*)(const Globals&, const BenchOptions&);

void AddPart(CLI::App& bench, Invocation& invocation, const std::shared_ptr<BenchOptions>& options, const char* name,
             const char* what, Body body) {
  CLI::App* part = bench.add_subcommand(name, what);
  part->callback([&bench, &invocation, options, body] {
    if (options->rows != "random" && options->text.empty()) throw CLI::ValidationError("--rows", "a model's rows need --text");
    if (bench.get_parent()->get_option("--socket")->count() > 0) options->socket = invocation.globals.socket;
    invocation.exit_code = body(invocation.globals, *options);
  });
}

}  // namespace

std::vector<PlanSpecs> PlansOf(const BenchOptions& options, std::vector<PlanSpecs> table) {
  if (options.keys.empty() && options.values.empty()) return table;
  return {{options.keys.empty() ? options.values : options.keys, options.values.empty() ? options.keys : options.values}};
}

Result<SampleRows> RowsOf(const BenchOptions& options, std::size_t query_tokens) {
  const bool full = options.length == BenchOptions::Length::kFull;
  if (options.rows == "random") return NormalSample((full ? 8 : 4) * kBlockTokens, query_tokens);
  return ModelSample(options.rows, options.text, (full ? 32 : 4) * kBlockTokens, query_tokens);
}

Effort EffortOf(const BenchOptions& options) {
  constexpr std::size_t kMiB = std::size_t{1} << 20;
  if (options.length == BenchOptions::Length::kShort) return {2, 1 * kMiB, 24 * kMiB};
  // A little over 512 MiB, so that slots with their padding still cover them.
  return {options.rounds, 48 * kMiB, 544 * kMiB};
}

std::size_t CallsPerRound(const Effort& effort, std::size_t bytes) {
  return std::clamp<std::size_t>(effort.round_bytes / std::max<std::size_t>(bytes, 1), 1, 64);
}

void AddBench(CLI::App& app, Invocation& invocation) {
  CLI::App* bench =
      app.add_subcommand("bench", "Measure this build on this machine, after checking that its results are right");
  bench->require_subcommand(1);
  auto options = std::make_shared<BenchOptions>();
  bench->add_flag_callback(
      "--short", [options] { options->length = BenchOptions::Length::kShort; },
      "Small sizes, few rounds: that everything runs and is right");
  bench->add_option("--rows", options->rows, "random, or the folder of a model whose rows are used")
      ->check([](const std::string& text) {
        return text == "random" || std::filesystem::is_directory(text) ? "" : "neither random nor a folder";
      })
      ->capture_default_str();
  bench->add_option("--text", options->text, "File that the model of --rows reads")->check(CLI::ExistingFile);
  bench->add_option("--keys", options->keys, "Codec of the keys; default: several plans");
  bench->add_option("--values", options->values, "Codec of the values");
  bench->add_option("--tokens", options->tokens, "Cached tokens: multiples of 128")
      ->delimiter(',')
      ->check(CLI::Range(128U, 1U << 20))
      ->check([](const std::string& text) { return std::stoul(text) % kBlockTokens == 0 ? "" : "not a multiple of 128"; });
  bench->add_option("--threads", options->threads, "Threads of attention")
      ->delimiter(',')
      ->check(CLI::Range(1U, 64U))
      ->capture_default_str();
  bench->add_option("--rounds", options->rounds, "Rounds in which the contenders take turns")
      ->check(CLI::Range(1U, 1000U))
      ->capture_default_str();
  AddPart(*bench, invocation, options, "attend", "One token's attention over cached tokens; peers, batches, scaling",
          BenchAttend);
  AddPart(*bench, invocation, options, "append", "Encoding rows into blocks", BenchAppend);
  AddPart(*bench, invocation, options, "prefill", "Attention of many new tokens at once over cached ones", BenchPrefill);
  AddPart(*bench, invocation, options, "rpc", "Steps whose attention runs in a daemon, less the attention itself; sealing",
          BenchRpc);
  AddPart(*bench, invocation, options, "local", "The same with attention in this process", BenchLocal);
  AddPart(*bench, invocation, options, "neighbour", "Calls of one client while another's prompt is read", BenchNeighbour);
  AddPart(*bench, invocation, options, "memory", "What a daemon occupies for what it holds; page faults and copies per step",
          BenchMemory);
}

}  // namespace kvant::tools
