// The engine's way to a kvant daemon: who the model is (the store's identity) and how its cache is compressed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include <kvant/client.h>
#include <kvant/result.h>
#include <kvant/store_spec.h>

#include "client/examples/llama/kvant_attention.h"
#include "client/examples/llama/model.h"

namespace kvant::examples {

struct ServiceOptions {
  std::string uri = "embedded:";
  std::string keys = "balanced";
  std::string values = "balanced";
  std::string artifact;  ///< path of a safetensors file for codecs that need one; empty for none
  Placement placement = Placement::kService;
  std::size_t threads = 1;  ///< of local attention
  std::uint32_t block_tokens = 128;
  std::uint32_t sink_tokens = 4;
  std::uint32_t recent_tokens = 64;
  std::uint32_t max_step_tokens = 512;
  std::optional<ElementType> tail_type;  ///< not given: f32 where a codec of the plan is f32, else f16
  std::size_t embedded_budget_bytes = std::size_t{512} << 20;
  std::string label;
  std::string policy;  ///< SequenceOptions::policy
};

/// A connection with the model's store open.
class Service {
 public:
  static Result<Service> Connect(const Model& model, const ServiceOptions& options);

  /// A sequence that already holds the longest shared prefix of `tokens`.
  Result<std::unique_ptr<KvantAttention>> Open(std::span<const TokenId> tokens);
  /// A copy-on-write continuation of another process's live sequence.
  Result<std::unique_ptr<KvantAttention>> Fork(SequenceId source, std::optional<std::uint64_t> length);

  [[nodiscard]] const StoreInfo& store() const noexcept { return store_.info(); }
  /// For a prompt cache.
  [[nodiscard]] Store& handle() noexcept { return store_; }
  [[nodiscard]] ClientCounters counters() const noexcept { return client_.counters(); }
  [[nodiscard]] ElementType tail_type() const noexcept { return sequence_options_.tail_type; }

 private:
  Service(Client client, Store store, Config config, SequenceOptions sequence_options)
      : client_(std::move(client)), store_(std::move(store)), config_(config), sequence_options_(std::move(sequence_options)) {}

  Client client_;
  Store store_;
  Config config_;
  SequenceOptions sequence_options_;
};

/// The identity of the model's cache under these options. Named "<model>-<digest of the plan>", so that other plans get
/// stores of their own.
Result<StoreSpec> MakeStoreSpec(const Model& model, const ServiceOptions& options);

}  // namespace kvant::examples
