#include "client/examples/llama/kvant_service.h"

#include <algorithm>
#include <utility>

#include "client/examples/llama/files.h"

namespace kvant::examples {
namespace {

ElementType TailType(const ServiceOptions& options) {
  if (options.tail_type) return *options.tail_type;
  const bool f32 = options.keys.starts_with("f32") || options.values.starts_with("f32");
  return f32 ? ElementType::kF32 : ElementType::kF16;
}

constexpr std::size_t kMaxArtifactBytes = std::size_t{1} << 28;  // as the daemon takes

/// Address space for the tail of one sequence, a fork of it, queries, outputs and the artifact.
std::size_t ArenaBytes(const Config& config, const ServiceOptions& options, const StoreSpec& spec) {
  const std::size_t rows =
      std::size_t{3} * options.block_tokens + options.recent_tokens + 2 * std::size_t{options.max_step_tokens};
  const std::size_t tail = config.layers * 2 * config.kv_width() * rows * sizeof(float);
  const std::size_t step = 2 * options.max_step_tokens * config.q_width() * sizeof(float);
  const std::size_t needed = 2 * (tail + step) + spec.plan.artifact.size() + (std::size_t{32} << 20);
  return std::max(ClientOptions{}.arena_bytes, needed);
}

/// Store names take [A-Za-z0-9._/:=,-] and at most 128 of them.
std::string StoreName(const std::string& model, const StoreSpec& spec) {
  const std::string plan = spec.plan.keys + "|" + spec.plan.values + "|" + Digest(spec.plan.artifact) + "|" +
                           std::to_string(spec.block_tokens) + "|" + std::to_string(spec.sink_tokens);
  std::string name = model.substr(0, 100);
  for (char& c : name) {
    const bool allowed =
        (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' || c == '-';
    if (!allowed) c = '_';
  }
  return name + "-" + Digest(plan).substr(0, 8);
}

}  // namespace

Result<StoreSpec> MakeStoreSpec(const Model& model, const ServiceOptions& options) {
  const Config& config = model.config();
  StoreSpec spec;
  spec.model = model.identity();
  spec.tokenizer = model.tokenizer().digest();
  spec.rope = config.rope;
  spec.layers = static_cast<std::uint32_t>(config.layers);
  spec.kv_heads = static_cast<std::uint32_t>(config.kv_heads);
  spec.head_dim = static_cast<std::uint32_t>(config.head_dim);
  spec.dtype = ElementType::kF32;
  spec.block_tokens = options.block_tokens;
  spec.sink_tokens = options.sink_tokens;
  spec.plan.keys = options.keys;
  spec.plan.values = options.values;
  if (!options.artifact.empty()) {
    Result<std::vector<std::byte>> artifact = ReadFile(options.artifact, kMaxArtifactBytes);
    if (!artifact) return artifact.error();
    spec.plan.artifact = std::move(*artifact);
  }
  spec.name = StoreName(model.name(), spec);
  return spec;
}

Result<Service> Service::Connect(const Model& model, const ServiceOptions& options) {
  const Result<StoreSpec> spec = MakeStoreSpec(model, options);
  if (!spec) return spec.error();
  ClientOptions client_options;
  client_options.name = "kvant-generate";
  client_options.threads = options.threads;
  client_options.arena_bytes = ArenaBytes(model.config(), options, *spec);
  client_options.embedded_budget_bytes = options.embedded_budget_bytes;
  Result<Client> client = Client::Connect(options.uri, client_options);
  if (!client) return client.error();
  Result<Store> store = client->OpenStore(*spec);
  if (!store) return store.error();
  SequenceOptions sequence_options;
  sequence_options.placement = options.placement;
  sequence_options.recent_tokens = options.recent_tokens;
  sequence_options.max_step_tokens = options.max_step_tokens;
  sequence_options.tail_type = TailType(options);
  sequence_options.label = options.label;
  sequence_options.policy = options.policy;
  return Service(std::move(client).value(), std::move(store).value(), model.config(), std::move(sequence_options));
}

Result<std::unique_ptr<KvantAttention>> Service::Open(std::span<const TokenId> tokens) {
  Result<Sequence> sequence = store_.Open(tokens, sequence_options_);
  if (!sequence) return sequence.error();
  return KvantAttention::Make(client_, std::move(sequence).value(), config_, sequence_options_.max_step_tokens);
}

Result<std::unique_ptr<KvantAttention>> Service::Fork(SequenceId source, std::optional<std::uint64_t> length) {
  Result<Sequence> sequence = store_.Fork(source, length, sequence_options_);
  if (!sequence) return sequence.error();
  return KvantAttention::Make(client_, std::move(sequence).value(), config_, sequence_options_.max_step_tokens);
}

}  // namespace kvant::examples
