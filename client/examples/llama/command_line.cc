#include "client/examples/llama/command_line.h"

#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <string>

#include <CLI/CLI.hpp>

#include "protocol/byte_size.h"

namespace kvant::examples {
namespace {

constexpr char kFooter[] = R"(
The prompt is --prompt, --prompt-file, or what stands on stdin. Text goes to stdout as it is generated, figures to stderr;
with -o json one object goes to stdout: text, prompt_tokens, prefix_hit_tokens, generated_tokens, ttft_ms (from the prompt's
tokens to the first token chosen), tokens_per_second (after the first), nll_per_token (of the generated tokens; with --score
of the text) and what served them; with --cache-dir also cached_tokens (of the prompt, in a file there) and cache_load_ms,
which is part of ttft_ms.

A text's loss (--score) is the mean of -log p(token | all tokens before it) in nats over its tokens from --skip on, never the
first. --compare-exact cuts the text into windows and runs each twice, with --exact's attention and with kvant's; its loss and
KL divergence count the tokens of each window from --skip on (not given: the last three quarters).

Exit codes: 0 done, 1 failed (message on stderr), 2 wrong usage, 3 no daemon at the socket, 4 no such sequence or file,
5 refused (store full, another identity, no permission), 6 no answer in time, 7 incompatible daemon version.)";

/// CLI11 takes -1, and what is too large, for the largest number of an unsigned option, and an empty text for 0.
std::string WholeNumber(const std::string& text) {
  std::uint64_t number = 0;
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && rest == end ? std::string() : "'" + text + "' is no whole number from 0 to 2^64-1";
}

/// CLI11's ranges let NaN pass.
std::string RefuseNan(const std::string& number) {
  return std::isnan(std::strtod(number.c_str(), nullptr)) ? number + " is no number" : std::string();
}

/// An option that names one of a few values. (CLI11's transformers would print the values themselves in the help, and take
/// them.)
template <typename Value, typename Choice>
CLI::Option* AddChoice(CLI::App& app, const std::string& name, Value& value, const std::map<std::string, Choice>& choices,
                       const std::string& help) {
  return app
      .add_option_function<std::string>(
          name, [&value, choices](const std::string& text) { value = choices.at(text); }, help)
      ->check(CLI::IsMember(choices));
}

void AddModelOptions(CLI::App& app, CommandLine& line) {
  app.add_option("--model", line.model,
                 "Folder of a Llama-architecture checkpoint (config.json, tokenizer.json, model.safetensors)")
      ->required()
      ->type_name("DIR");
  const std::map<std::string, Output> formats{{"text", Output::kText}, {"json", Output::kJson}};
  AddChoice(app, "-o,--output", line.output, formats, "How to print")->type_name("FORMAT");
}

void AddGenerateOptions(CLI::App& app, CommandLine& line) {
  const char* group = "Generating";
  auto* prompt = app.add_option("--prompt", line.prompt, "The prompt")->type_name("TEXT")->group(group);
  app.add_option("--prompt-file", line.prompt_file, "A file with the prompt")
      ->type_name("FILE")
      ->group(group)
      ->excludes(prompt);
  app.add_option("--max-tokens", line.max_tokens, "Tokens to generate at most")
      ->check(WholeNumber)
      ->capture_default_str()
      ->group(group);
  app.add_option("--temperature", line.sampler.temperature, "0: always the most probable token")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 100.0))
      ->check(RefuseNan)
      ->group(group);
  app.add_option("--top-p", line.sampler.top_p, "Sample among the most probable tokens that together reach this")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 1.0))
      ->check(RefuseNan)
      ->group(group);
  app.add_option("--seed", line.sampler.seed, "Of the sampling")->check(WholeNumber)->capture_default_str()->group(group);
  auto* from =
      app.add_option("--fork-from", line.fork_from, "Continue a copy of this live sequence of another process with the prompt")
          ->check(WholeNumber)
          ->type_name("ID")
          ->group(group);
  app.add_option("--fork-at", line.fork_at, "Tokens of it to keep (not given: all)")
      ->check(WholeNumber)
      ->type_name("N")
      ->needs(from)
      ->group(group);
  app.add_option("--hold", line.hold_seconds, "Keep the sequence open this many seconds afterwards")
      ->check(CLI::Range(0.0, 1e6))
      ->check(RefuseNan)
      ->type_name("SECONDS")
      ->group(group);
  app.add_flag("--hold-on-stdin", line.hold_on_stdin, "Keep the sequence open afterwards until stdin ends")->group(group);
}

void AddCacheOptions(CLI::App& app, CommandLine& line) {
  const char* group = "Cache";
  ServiceOptions& service = line.service;
  app.add_flag("--exact", line.exact, "Plain f32 attention inside this program instead of kvant: the reference")->group(group);
  app.add_option("--socket,--connect", service.uri, "The daemon: PATH, unix:PATH, or embedded: for one inside this process")
      ->capture_default_str()
      ->type_name("URI")
      ->group(group);
  app.add_option("--keys", service.keys, "Codec of the keys, NAME[:PARAMETER=VALUE,...]")
      ->capture_default_str()
      ->type_name("SPEC")
      ->group(group);
  app.add_option("--values", service.values, "Codec of the values")->capture_default_str()->type_name("SPEC")->group(group);
  app.add_option("--artifact", service.artifact, "A safetensors file with what the codecs were calibrated on")
      ->type_name("FILE")
      ->group(group);
  const std::map<std::string, Placement> placements{{"service", Placement::kService}, {"local", Placement::kLocal}};
  AddChoice(app, "--placement", service.placement, placements,
            "Where attention runs: service (in the daemon) or local (in this process)")
      ->type_name("PLACE")
      ->group(group);
  app.add_option("--threads", service.threads, "Threads of local attention")
      ->capture_default_str()
      ->check(CLI::Range(1, 256))
      ->group(group);
  app.add_option("--block-tokens", service.block_tokens, "Tokens of a sealed block")
      ->check(WholeNumber)
      ->capture_default_str()
      ->group(group);
  app.add_option("--sinks", service.sink_tokens, "First tokens that stay raw beside their codes")
      ->check(WholeNumber)
      ->capture_default_str()
      ->group(group);
  app.add_option("--recent", service.recent_tokens, "Newest tokens that stay raw")
      ->check(WholeNumber)
      ->capture_default_str()
      ->group(group);
  app.add_option("--max-step", service.max_step_tokens, "Tokens of one forward pass at most")
      ->capture_default_str()
      ->check(CLI::Range(1, 65536))
      ->group(group);
  app.add_option(
         "--policy", service.policy,
         "Which tokens are attended: window:tokens=N,sinks=N or, once the prompt is read (--compare-exact: --skip tokens), "
         "snapkv:budget=N,window=N or h2o:budget=N,recent=N (not given: all)")
      ->type_name("POLICY")
      ->group(group);
  const std::map<std::string, ElementType> types{
      {"f32", ElementType::kF32}, {"f16", ElementType::kF16}, {"bf16", ElementType::kBF16}};
  AddChoice(app, "--tail-type", service.tail_type, types, "Type of raw rows (not given: f32 if a codec is, else f16)")
      ->type_name("TYPE")
      ->group(group);
  app.add_option_function<std::string>(
         "--embedded-budget",
         [&service](const std::string& text) {
           const Result<std::uint64_t> bytes = protocol::ParseByteSize(text);
           if (!bytes) throw CLI::ValidationError("--embedded-budget", bytes.error().message);
           service.embedded_budget_bytes = *bytes;
         },
         "Budget of the daemon inside; KiB, MiB, GiB (not given: 512MiB)")
      ->type_name("SIZE")
      ->group(group);
  app.add_option("--cache-dir", line.cache_dir,
                 "A folder that keeps prompts between runs and daemons: what of this prompt is there is not computed again")
      ->type_name("DIR")
      ->group(group);
  app.add_option_function<std::string>(
         "--cache-budget",
         [&line](const std::string& text) {
           const Result<std::uint64_t> bytes = protocol::ParseByteSize(text);
           if (!bytes) throw CLI::ValidationError("--cache-budget", bytes.error().message);
           line.cache_budget_bytes = *bytes;
         },
         "Bytes of that folder; prompts that nobody used longest ago go first (not given: 1GiB)")
      ->needs("--cache-dir")
      ->type_name("SIZE")
      ->group(group);
  app.add_option("--seq-label", service.label, "Shown to operators beside the sequence")->type_name("TEXT")->group(group);
}

void AddMeasureOptions(CLI::App& app, CommandLine& line) {
  const char* group = "Measuring";
  const auto add_mode = [&](const char* name, Mode mode, const char* help) {
    return app
        .add_option_function<std::string>(
            name,
            [&line, mode](const std::string& file) {
              line.mode = mode;
              line.text_file = file;
            },
            help)
        ->type_name("FILE")
        ->group(group);
  };
  auto* score = add_mode("--score", Mode::kScore, "Print the loss of a text instead of generating");
  auto* compare = add_mode("--compare-exact", Mode::kCompare, "Compare kvant's cache with the exact one over a text");
  auto* calibrate = add_mode("--calibrate", Mode::kCalibrate, "Write means of keys and values over a text to --artifact-out");
  score->excludes(compare)->excludes(calibrate);
  compare->excludes(calibrate);
  auto* out = app.add_option("--artifact-out", line.artifact_out, "Where --calibrate writes its safetensors file")
                  ->type_name("FILE")
                  ->needs(calibrate)
                  ->group(group);
  calibrate->needs(out);
  app.add_option("--skip,--score-skip", line.skip, "First tokens of the text (or of each window) that do not count")
      ->check(WholeNumber)
      ->type_name("N")
      ->group(group);
  app.add_option("--window", line.window_tokens, "Tokens of a window of --compare-exact and --calibrate")
      ->capture_default_str()
      ->check(CLI::Range(2, 1 << 24))
      ->group(group);
  app.add_option("--windows", line.windows, "Windows to run at most (0: all)")
      ->check(WholeNumber)
      ->capture_default_str()
      ->group(group);
}

}  // namespace

std::variant<CommandLine, int> ParseCommandLine(int argc, char** argv) {
  CommandLine line;
  CLI::App app("Generates text with a small Llama-architecture model whose attention runs through kvant.", "kvant-generate");
  app.footer(kFooter);
  app.set_version_flag("--version", KVANT_VERSION);
  AddModelOptions(app, line);
  AddGenerateOptions(app, line);
  AddCacheOptions(app, line);
  AddMeasureOptions(app, line);
  try {
    app.parse(argc, argv);
    if (line.exact && (line.fork_from || line.mode == Mode::kCompare)) {
      throw CLI::ExcludesError("--exact", line.fork_from ? "--fork-from" : "--compare-exact");
    }
    if (!line.cache_dir.empty() && (line.exact || line.fork_from || line.mode != Mode::kGenerate)) {
      throw CLI::ValidationError("--cache-dir", "it goes with a prompt that kvant's attention reads from its first token on");
    }
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  return line;
}

}  // namespace kvant::examples
