// Stores of the C interface.
#include <span>
#include <vector>

#include "client/c_support.h"

using namespace kvant::c;  // NOLINT(google-build-using-namespace): this file implements one interface

namespace {

std::vector<double> Factors(const double* factors, std::size_t count) {
  return factors == nullptr ? std::vector<double>() : std::vector<double>(factors, factors + count);
}

kvant::Result<kvant::RopeSpec> Rope(const kvant_rope& rope) {
  kvant::RopeSpec spec;
  spec.pairing = static_cast<kvant::RopePairing>(rope.pairing);
  spec.theta = rope.theta;
  spec.rotary_dims = rope.rotary_dims;
  switch (rope.scaling) {
    case KVANT_ROPE_UNSCALED: return spec;
    case KVANT_ROPE_LINEAR: spec.scaling = kvant::RopeLinear{rope.factor}; return spec;
    case KVANT_ROPE_DYNAMIC:
      spec.scaling = kvant::RopeDynamic{rope.factor, rope.original_positions, rope.context_tokens};
      return spec;
    case KVANT_ROPE_YARN:
      spec.scaling = kvant::RopeYarn{rope.factor,    rope.original_positions, rope.beta_fast,
                                     rope.beta_slow, rope.truncate != 0,      rope.attention_factor};
      return spec;
    case KVANT_ROPE_LLAMA3:
      spec.scaling = kvant::RopeLlama3{rope.factor, rope.original_positions, rope.low_freq_factor, rope.high_freq_factor};
      return spec;
    case KVANT_ROPE_LONG:
      spec.scaling = kvant::RopeLong{.factor = rope.factor,
                                     .original_positions = rope.original_positions,
                                     .context_tokens = rope.context_tokens,
                                     .short_factors = Factors(rope.short_factors, rope.factors),
                                     .long_factors = Factors(rope.long_factors, rope.factors),
                                     .attention_factor = rope.attention_factor};
      return spec;
  }
  return kvant::Error{kvant::ErrorCode::kInvalidArgument,
                      "open store: rope.scaling " + std::to_string(static_cast<int>(rope.scaling)) + " is unknown"};
}

kvant::Result<kvant::StoreSpec> Spec(const kvant_store_spec& from) {
  kvant::StoreSpec spec;
  spec.name = Text(from.name);
  spec.model = Text(from.model);
  spec.tokenizer = Text(from.tokenizer);
  spec.adapter = Text(from.adapter);
  spec.salt = Text(from.salt);
  auto rope = Rope(from.rope);
  if (!rope) return rope.error();
  spec.rope = std::move(*rope);
  spec.key_stage = static_cast<kvant::KeyStage>(from.key_stage);
  spec.layers = from.layers;
  spec.kv_heads = from.kv_heads;
  spec.head_dim = from.head_dim;
  spec.dtype = static_cast<kvant::ElementType>(from.dtype);
  spec.block_tokens = from.block_tokens;
  spec.sink_tokens = from.sink_tokens;
  if (from.keys != nullptr) spec.plan.keys = from.keys;
  if (from.values != nullptr) spec.plan.values = from.values;
  if ((from.overrides == nullptr && from.override_count > 0) || (from.artifact == nullptr && from.artifact_bytes > 0)) {
    return kvant::Error{kvant::ErrorCode::kInvalidArgument, "open store: overrides or artifact is null but has a size"};
  }
  for (const kvant_layer_plan& plan : std::span(from.overrides, from.override_count)) {
    spec.plan.overrides.push_back({.first_layer = plan.first_layer,
                                   .last_layer = plan.last_layer,
                                   .keys = Text(plan.keys),
                                   .values = Text(plan.values),
                                   .first_head = plan.first_head,
                                   .last_head = plan.last_head});
  }
  const auto* bytes = static_cast<const std::byte*>(from.artifact);
  spec.plan.artifact.assign(bytes, bytes + from.artifact_bytes);
  return spec;
}

}  // namespace

void kvant_store_spec_init(kvant_store_spec* spec, size_t struct_size) {
  const kvant::StoreSpec defaults;
  const kvant::RopeYarn yarn;
  const kvant::RopeLlama3 llama3;
  kvant_store_spec values = {};
  values.rope.pairing = static_cast<kvant_rope_pairing>(defaults.rope.pairing);
  values.rope.theta = defaults.rope.theta;
  values.rope.factor = 1.0;
  values.rope.truncate = yarn.truncate ? 1 : 0;
  values.rope.beta_fast = yarn.beta_fast;
  values.rope.beta_slow = yarn.beta_slow;
  values.rope.low_freq_factor = llama3.low_freq_factor;
  values.rope.high_freq_factor = llama3.high_freq_factor;
  values.dtype = static_cast<kvant_element_type>(defaults.dtype);
  values.block_tokens = defaults.block_tokens;
  values.sink_tokens = defaults.sink_tokens;
  WriteStruct(values, spec, struct_size);
}

kvant_code kvant_store_open(kvant_client* client, const kvant_store_spec* spec, kvant_store** store, kvant_error* error) {
  return Guarded("open store", error, [&] {
    if (client == nullptr || spec == nullptr || store == nullptr) {
      return Refuse("open store: client, spec or store is null", error);
    }
    kvant_store_spec given = {};
    kvant_store_spec_init(&given, sizeof(given));
    if (!ReadStruct(spec, given)) return BadStruct("open store", "kvant_store_spec", error);
    auto wanted = Spec(given);
    if (!wanted) return Refuse(wanted.error(), error);
    return Give(client->client.OpenStore(*wanted), store, error);
  });
}

void kvant_store_close(kvant_store* store) { delete store; }

kvant_code kvant_store_get_info(const kvant_store* store, kvant_store_info* info, kvant_error* error) {
  return Guarded("store info", error, [&] {
    if (store == nullptr || info == nullptr) return Refuse("store info: store or info is null", error);
    const kvant::StoreInfo& from = store->store.info();
    kvant_store_info values = {};
    values.name = from.name.c_str();
    values.identity = from.identity.c_str();
    values.warning = from.warning.c_str();
    values.created = from.created ? 1 : 0;
    values.relabelled = from.relabelled ? 1 : 0;
    values.block_bytes = from.block_bytes;
    values.logical_block_bytes = from.logical_block_bytes;
    values.key_bits_per_element = from.key_bits_per_element;
    values.value_bits_per_element = from.value_bits_per_element;
    WriteStruct(values, info, info->struct_size);
    return KVANT_OK;
  });
}

kvant_code kvant_store_fork(kvant_store* store, uint64_t source, uint64_t length, const kvant_sequence_options* options,
                            kvant_sequence** fork, kvant_error* error) {
  return Guarded("fork", error, [&] {
    if (store == nullptr || fork == nullptr) return Refuse("fork: store or fork is null", error);
    auto wanted = Options(options, "fork");
    if (!wanted) return Refuse(wanted.error(), error);
    const std::optional<std::uint64_t> at = length == KVANT_WHOLE_LENGTH ? std::nullopt : std::optional(length);
    return Give(store->store.Fork(source, at, *wanted), fork, error);
  });
}
