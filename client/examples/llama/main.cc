// kvant-generate: the reference engine. Loads a checkpoint, runs it over kvant's cache (or its own), prints text or figures.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include "client/examples/llama/command_line.h"
#include "client/examples/llama/evaluate.h"
#include "client/examples/llama/exact_attention.h"
#include "client/examples/llama/files.h"
#include "client/examples/llama/generate.h"
#include "client/examples/llama/kvant_service.h"
#include "client/examples/llama/model.h"
#include "client/examples/llama/prompts.h"

namespace kvant::examples {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

int ExitCode(ErrorCode code) {
  switch (code) {
    case ErrorCode::kDisconnected: return 3;
    case ErrorCode::kNotFound:
    case ErrorCode::kStaleDaemon: return 4;  // a sequence of another daemon's: not here either
    case ErrorCode::kStoreFull:
    case ErrorCode::kTailFull:
    case ErrorCode::kIdentityMismatch:
    case ErrorCode::kPermissionDenied: return 5;
    case ErrorCode::kDeadlineExceeded: return 6;
    case ErrorCode::kVersionMismatch: return 7;
    default: return 1;
  }
}

Result<std::string> ReadPrompt(const CommandLine& line) {
  if (line.prompt) return *line.prompt;
  if (!line.prompt_file.empty()) return ReadText(line.prompt_file);
  return ReadStandardInput();
}

/// One sequence of either kind, and the service behind it if it is kvant's.
struct Cache {
  std::optional<Service> service;
  std::unique_ptr<Attention> attention;
  KvantAttention* kvant = nullptr;  ///< `attention`, if it is kvant's
};

Result<Cache> Connect(const CommandLine& line, const Model& model) {
  Cache cache;
  if (line.exact) return cache;
  Result<Service> service = Service::Connect(model, line.service);
  if (!service) return service.error();
  cache.service.emplace(std::move(service).value());
  return cache;
}

Result<void> Open(const CommandLine& line, const Model& model, std::span<const TokenId> prefix, Cache& cache) {
  if (!cache.service) {
    cache.attention = std::make_unique<ExactAttention>(model.config(), line.service.max_step_tokens);
    return {};
  }
  auto opened = line.fork_from ? cache.service->Fork(*line.fork_from, line.fork_at) : cache.service->Open(prefix);
  if (!opened) return opened.error();
  cache.kvant = opened->get();
  cache.attention = std::move(*opened);
  return {};
}

/// What served the run, for every JSON object.
void Describe(const CommandLine& line, const Cache& cache, Json& json) {
  json["placement"] = line.exact ? "exact" : line.service.placement == Placement::kLocal ? "local" : "service";
  if (!cache.service) return;
  const ClientCounters counters = cache.service->counters();
  json["keys"] = line.service.keys;
  json["values"] = line.service.values;
  json["policy"] = line.service.policy;
  json["tail_type"] = ElementTypeName(cache.service->tail_type());
  json["store"] = cache.service->store().name;
  json["key_bits_per_element"] = cache.service->store().key_bits_per_element;
  json["value_bits_per_element"] = cache.service->store().value_bits_per_element;
  json["bytes_copied"] = counters.bytes_copied;
  json["bytes_zero_copy"] = counters.bytes_zero_copy;
  json["rpc_calls"] = counters.rpc_calls;
  json["attend_calls"] = counters.attend_calls;
  if (cache.kvant != nullptr) {
    json["sequence_id"] = cache.kvant->sequence().id();
    json["sequence_tokens"] = cache.kvant->length();
    json["kept_tokens"] = cache.kvant->sequence().kept();
  }
}

void Print(const Json& json) {
  // Bytes that are not UTF-8 (a model may end inside a character) become U+FFFD.
  std::cout << json.dump(2, ' ', false, Json::error_handler_t::replace) << std::endl;
}

void Warn(const Cache& cache) {
  if (cache.kvant != nullptr && cache.kvant->warning()) {
    std::cerr << "kvant-generate: warning: " << *cache.kvant->warning() << "\n";
  }
}

void Hold(const CommandLine& line) {
  if (line.hold_seconds > 0) std::this_thread::sleep_for(std::chrono::duration<double>(line.hold_seconds));
  char buffer[4096];
  while (line.hold_on_stdin && read(STDIN_FILENO, buffer, sizeof(buffer)) > 0) {
  }
}

double Milliseconds(std::chrono::duration<double> duration) { return 1000 * duration.count(); }

Result<std::optional<Prompts>> OpenPrompts(const CommandLine& line) {
  if (line.cache_dir.empty()) return std::optional<Prompts>();
  auto opened = Prompts::Open(line.cache_dir, line.cache_budget_bytes);
  if (!opened) return opened.error();
  return std::optional<Prompts>(*std::move(opened));
}

Result<void> RunGenerate(const CommandLine& line, const Model& model) {
  const Result<std::string> text = ReadPrompt(line);
  if (!text) return text.error();
  std::vector<TokenId> prompt = model.tokenizer().Encode(*text);
  if (prompt.empty()) prompt.push_back(model.tokenizer().start());
  Result<Cache> cache = Connect(line, model);
  if (!cache) return cache.error();

  Result<std::optional<Prompts>> prompts = OpenPrompts(line);
  if (!prompts) return prompts.error();
  const auto start = Clock::now();
  std::span<const TokenId> rest = prompt;
  if (*prompts) (*prompts)->Load(*cache->service, rest.first(rest.size() - 1));
  // The last token is left out: its logits are wanted, so it must be run.
  if (const auto opened = Open(line, model, rest.first(rest.size() - 1), *cache); !opened) return opened.error();
  const std::size_t held = cache->attention->length();
  const std::size_t hits = line.fork_from ? 0 : held;
  rest = rest.subspan(hits);
  const auto on_text = [&](const std::string& bytes) {
    if (line.output == Output::kText) std::cout << bytes << std::flush;
  };
  Result<Generation> generated =
      Generate(model, *cache->attention, rest, line.max_tokens, Sampler(line.sampler), start, on_text);
  if (!generated) return generated.error();
  Warn(*cache);
  if (*prompts) (*prompts)->Save(*cache->service, *cache->kvant, prompt, generated->tokens);

  const Generation& g = *generated;
  const double decoded = g.tokens.size() > 1 ? static_cast<double>(g.tokens.size() - 1) : 0;
  const double per_second = decoded > 0 ? decoded / g.decoding.count() : 0;
  if (line.output == Output::kJson) {
    Json json;
    json["text"] = g.text;
    json["prompt_tokens"] = prompt.size();
    json["prefix_hit_tokens"] = hits;
    if (line.fork_from) json["forked_tokens"] = held;
    json["generated_tokens"] = g.tokens.size();
    json["ttft_ms"] = Milliseconds(g.first_token);
    json["tokens_per_second"] = per_second;
    json["nll_per_token"] = g.tokens.empty() ? Json() : Json(g.nll / static_cast<double>(g.tokens.size()));
    json["finish"] = g.ended ? "end" : "length";
    if (*prompts) {
      json["cached_tokens"] = (*prompts)->tokens();
      json["cache_load_ms"] = Milliseconds((*prompts)->took());
    }
    Describe(line, *cache, json);
    Print(json);
  } else {
    std::cout << std::endl;
    std::fprintf(
        stderr,
        "kvant-generate: %zu prompt tokens, %zu of them from shared blocks; first token after %.0f ms; %zu tokens, %.0f/s",
        prompt.size(), hits, Milliseconds(g.first_token), g.tokens.size(), per_second);
    if (cache->kvant != nullptr) {
      std::fprintf(stderr, "; sequence %llu", static_cast<unsigned long long>(cache->kvant->sequence().id()));
    }
    std::fprintf(stderr, "\n");
  }
  Hold(line);
  return {};
}

Result<std::vector<TokenId>> ReadTokens(const CommandLine& line, const Model& model, std::size_t at_least) {
  const Result<std::string> text = ReadText(line.text_file);
  if (!text) return text.error();
  std::vector<TokenId> tokens = model.tokenizer().Encode(*text);
  if (tokens.size() < at_least) {
    return Error{ErrorCode::kInvalidArgument, "'" + line.text_file + "' has " + std::to_string(tokens.size()) +
                                                  " tokens; at least " + std::to_string(at_least) + " are needed"};
  }
  return tokens;
}

Result<void> RunScore(const CommandLine& line, const Model& model) {
  const std::size_t skip = line.skip.value_or(0);
  const auto tokens = ReadTokens(line, model, std::max<std::size_t>(2, skip + 1));
  if (!tokens) return tokens.error();
  Result<Cache> cache = Connect(line, model);
  if (!cache) return cache.error();
  if (const auto opened = Open(line, model, {}, *cache); !opened) return opened.error();
  const auto start = Clock::now();
  const auto loss = ScoreTokens(model, *cache->attention, *tokens, skip, line.service.max_step_tokens);
  if (!loss) return loss.error();
  const std::chrono::duration<double> elapsed = Clock::now() - start;
  Warn(*cache);
  const double per_second = static_cast<double>(tokens->size()) / elapsed.count();
  if (line.output == Output::kText) {
    std::printf("%.6f nats per token over %zu of %zu tokens (%.0f tokens/s)\n", loss->per_token(), loss->tokens, tokens->size(),
                per_second);
    return {};
  }
  Json json;
  json["text"] = "";
  json["prompt_tokens"] = tokens->size();
  json["prefix_hit_tokens"] = 0;
  json["generated_tokens"] = 0;
  json["ttft_ms"] = nullptr;
  json["tokens_per_second"] = per_second;
  json["nll_per_token"] = loss->per_token();
  json["scored_tokens"] = loss->tokens;
  Describe(line, *cache, json);
  Print(json);
  return {};
}

Result<void> RunCompare(const CommandLine& line, const Model& model) {
  const auto tokens = ReadTokens(line, model, 2);
  if (!tokens) return tokens.error();
  Result<Cache> cache = Connect(line, model);
  if (!cache) return cache.error();
  Comparison sum;
  std::size_t windows = 0;
  for (std::size_t at = 0; at + 1 < tokens->size() && (line.windows == 0 || windows < line.windows);
       at += line.window_tokens, ++windows) {
    const auto window = std::span(*tokens).subspan(at, std::min(line.window_tokens, tokens->size() - at));
    cache->attention.reset();  // gives its blocks back before the next one needs room
    if (const auto opened = Open(line, model, {}, *cache); !opened) return opened.error();
    ExactAttention reference(model.config(), line.service.max_step_tokens);
    const std::size_t skip = line.skip.value_or(window.size() / 4);
    const auto compared = CompareTokens(model, reference, *cache->attention, window, skip, line.service.max_step_tokens);
    if (!compared) return compared.error();
    Warn(*cache);
    sum += *compared;
  }
  if (sum.tokens == 0) return Error{ErrorCode::kInvalidArgument, "compare: no token counts; --skip is too large"};
  const auto n = static_cast<double>(sum.tokens);
  const double change = 100 * (sum.candidate_nll / sum.reference_nll - 1);
  const double same = static_cast<double>(sum.same_choice) / n;
  if (line.output == Output::kText) {
    std::printf(
        "KL to exact %.6f nats per token, loss %.6f (exact %.6f, %+.3f %%), same choice %.4f, over %zu tokens of %zu windows\n",
        sum.kl / n, sum.candidate_nll / n, sum.reference_nll / n, change, same, sum.tokens, windows);
    return {};
  }
  Json json;
  json["kl_per_token"] = sum.kl / n;
  json["nll_per_token"] = sum.candidate_nll / n;
  json["exact_nll_per_token"] = sum.reference_nll / n;
  json["loss_change_percent"] = change;
  json["same_choice_share"] = same;
  json["compared_tokens"] = sum.tokens;
  json["windows"] = windows;
  Describe(line, *cache, json);
  Print(json);
  return {};
}

Result<void> RunCalibrate(const CommandLine& line, const Model& model) {
  auto tokens = ReadTokens(line, model, 1);
  if (!tokens) return tokens.error();
  if (line.windows != 0 && line.windows < tokens->size() / line.window_tokens) {
    tokens->resize(line.windows * line.window_tokens);
  }
  const auto image = Calibrate(model, *tokens, line.window_tokens);
  if (!image) return image.error();
  if (const auto written = WriteFile(line.artifact_out, *image); !written) return written.error();
  if (line.output == Output::kText) {
    std::printf("means over %zu tokens in %s (%zu bytes)\n", tokens->size(), line.artifact_out.c_str(), image->size());
    return {};
  }
  Json json;
  json["artifact"] = line.artifact_out;
  json["tokens"] = tokens->size();
  json["digest"] = Digest(*image);
  Print(json);
  return {};
}

Result<void> Run(const CommandLine& line) {
  const Result<Model> model = Model::Load(line.model);
  if (!model) return model.error();
  switch (line.mode) {
    case Mode::kGenerate: return RunGenerate(line, *model);
    case Mode::kScore: return RunScore(line, *model);
    case Mode::kCompare: return RunCompare(line, *model);
    case Mode::kCalibrate: return RunCalibrate(line, *model);
  }
  return Error{ErrorCode::kInternal, "unknown mode"};
}

}  // namespace
}  // namespace kvant::examples

int main(int argc, char** argv) {
  using kvant::examples::CommandLine;
  std::signal(SIGPIPE, SIG_IGN);  // a reader of our text that goes away must not leave the daemon guessing
  const auto parsed = kvant::examples::ParseCommandLine(argc, argv);
  const auto written = [](int code) {
    if (std::cout.flush().good() && std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
    std::cerr << "kvant-generate: cannot write to standard output\n";
    return code == 0 ? 1 : code;
  };
  if (const int* code = std::get_if<int>(&parsed)) return written(*code);
  const kvant::Result<void> done = kvant::examples::Run(std::get<CommandLine>(parsed));
  if (done) return written(0);
  std::cout << std::flush;
  std::cerr << "kvant-generate: " << kvant::ErrorCodeName(done.error().code) << ": " << done.error().message << "\n";
  return kvant::examples::ExitCode(done.error().code);
}
