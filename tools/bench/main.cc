// kvant_bench: what is inside, measured: attention on codes, encoding, prompts, and the share of a step that is not attention.
// For people who change kvant; README.md beside this file has the method. `kvantctl bench` is the operator's.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "tools/bench/parts.h"

namespace kvant::tools {

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

namespace {

/// Options of the parts that choose their rows and take turns with the machine's limits.
void AddRowOptions(CLI::App& part, const std::shared_ptr<BenchOptions>& options) {
  CLI::Option* text =
      part.add_option("--text", options->text, "File that the model of --rows reads")->check([](const std::string& path) {
        return std::filesystem::is_regular_file(path) ? "" : path + " is no regular file";
      });
  part.add_option("--rows", options->rows, "random, or the folder of a model whose rows are used (needs --text)")
      ->check([](const std::string& rows) {
        return rows == "random" || std::filesystem::is_directory(rows) ? "" : "neither random nor a folder";
      })
      ->capture_default_str();
  part.add_option("--threads", options->threads, "Threads of attention")
      ->delimiter(',')
      ->check(CLI::Range(1U, 64U))
      ->capture_default_str();
  part.add_option("--rounds", options->rounds, "Rounds in which the contenders take turns")
      ->check(CLI::Range(1U, 1000U))
      ->capture_default_str();
  part.parse_complete_callback([options, text] {
    if (options->rows != "random" && text->count() == 0) throw CLI::ValidationError("--rows", "a model's rows need --text");
  });
}

int Run(int argc, char** argv) {
  Invocation invocation;
  invocation.globals.program = "kvant_bench";
  CLI::App app{"Measures this build on this machine, after checking that its results are right.", "kvant_bench"};
  app.footer(kExitCodes);
  app.add_option("-s,--socket", invocation.globals.socket, "rpc, local: a running daemon's socket; default: one is started");
  AddOutputOption(app, invocation.globals);
  app.fallthrough();  // global options may stand behind the sub-command
  app.require_subcommand(1);
  const auto options = std::make_shared<BenchOptions>();
  const auto add = [&](const char* name, const char* what, int (*body)(const Globals&, const BenchOptions&)) {
    return AddBenchPart(app, app, invocation, name, what, options, body);
  };
  AddRowOptions(*add("attend", "One token's attention over cached tokens; peers, batches, scaling", BenchAttend), options);
  AddRowOptions(*add("append", "Encoding rows into blocks", BenchAppend), options);
  AddRowOptions(*add("prefill", "Attention of many new tokens at once over cached ones", BenchPrefill), options);
  AddRowOptions(*add("expander", "A code of the tests whose fast path is an expander alone, beside int8", BenchExpander),
                options);
  AddRowOptions(
      *add("policies", "One token's attention over the tokens that a policy keeps, beside all of them", BenchPolicies),
      options);
  add("codecs", "Scores and sums of every codec, and which share of its limit each reaches", BenchCodecs);
  add("rpc", "Steps whose attention runs in a daemon, less the attention itself; sealing", BenchRpc);
  add("local", "The same with attention in this process", BenchLocal);
  add("restart", "A daemon that was killed: until it serves its stores again", BenchRestart);
  add("snapshot", "A store saved to a file of the current folder and restored, beside a plain copy", BenchSnapshot);
  return ParseAndRun(app, argc, argv, invocation);
}

}  // namespace
}  // namespace kvant::tools

int main(int argc, char** argv) {
  try {
    return kvant::tools::Run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "kvant_bench: %s\n", error.what());
    return kvant::tools::kFailure;
  }
}
