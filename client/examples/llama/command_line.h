// The options of kvant-generate.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "client/examples/llama/kvant_service.h"
#include "client/examples/llama/sampler.h"

namespace kvant::examples {

enum class Mode { kGenerate, kScore, kCompare, kCalibrate };
enum class Output { kText, kJson };

struct CommandLine {
  Mode mode = Mode::kGenerate;
  Output output = Output::kText;
  std::string model;
  bool exact = false;  ///< the engine's own attention instead of kvant's
  ServiceOptions service;

  std::optional<std::string> prompt;
  std::string prompt_file;
  std::size_t max_tokens = 128;
  SamplerOptions sampler;
  std::optional<SequenceId> fork_from;
  std::optional<std::uint64_t> fork_at;
  double hold_seconds = 0;
  bool hold_on_stdin = false;
  std::string cache_dir;  ///< of prompts that outlive the daemon; empty: none
  std::uint64_t cache_budget_bytes = std::uint64_t{1} << 30;

  std::string text_file;  ///< of --score, --compare-exact and --calibrate
  std::string artifact_out;
  std::optional<std::size_t> skip;   ///< tokens at the start of the text or window that do not count
  std::size_t window_tokens = 2048;  ///< of --compare-exact and --calibrate
  std::size_t windows = 0;           ///< at most; 0: all
};

/// The parsed options, or the exit code where there is nothing to do (help, version, wrong usage); has printed what there is to
/// say.
std::variant<CommandLine, int> ParseCommandLine(int argc, char** argv);

}  // namespace kvant::examples
