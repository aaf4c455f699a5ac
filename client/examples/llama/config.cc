#include "client/examples/llama/config.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <nlohmann/json.hpp>

#include "client/examples/llama/field_reader.h"
#include "client/examples/llama/rope_config.h"

namespace kvant::examples {
namespace {

using Json = nlohmann::json;

void RefuseWhatIsNotComputed(const Json& json, FieldReader& reader) {
  const Json none;
  const Json architectures = json.value("architectures", none);
  const bool known = (architectures.is_array() && architectures.size() == 1 && architectures[0] == "LlamaForCausalLM") ||
                     (architectures.is_null() && json.value("model_type", none) == "llama");
  if (!known) reader.Unsupported("architectures", architectures, "LlamaForCausalLM");
  const Json act = json.value("hidden_act", Json("silu"));
  if (act != "silu") reader.Unsupported("hidden_act", act, "\"silu\"");
  for (const char* name : {"attention_bias", "mlp_bias"}) {
    if (reader.Flag(name, false)) reader.Unsupported(name, true, "layers without biases");
  }
  if (json.contains("quantization_config") && !json["quantization_config"].is_null()) {
    reader.Unsupported("quantization_config", json["quantization_config"], "bf16, f16 and f32 weights");
  }
}

}  // namespace

Result<Config> ParseConfig(const Json& json) {
  if (!json.is_object()) return Error{ErrorCode::kInvalidArgument, "config.json: not a JSON object"};
  std::optional<Error> error;
  FieldReader reader(json, "", error);
  RefuseWhatIsNotComputed(json, reader);
  if (error) return *error;

  Config config;
  config.layers = reader.Size("num_hidden_layers", 1024);
  config.hidden = reader.Size("hidden_size", 1 << 17);
  config.intermediate = reader.Size("intermediate_size", 1 << 19);
  config.q_heads = reader.Size("num_attention_heads", 1024);
  config.kv_heads = reader.Size("num_key_value_heads", 1024, config.q_heads);
  config.head_dim = reader.Size("head_dim", 1024, std::max<std::size_t>(config.hidden / config.q_heads, 1));
  config.vocab = reader.Size("vocab_size", 1 << 24);
  config.rms_eps = reader.Positive("rms_norm_eps", 1e-6);
  RopeConfig rope = ReadRopeConfig(json, config.head_dim, error);
  config.rope = std::move(rope.spec);
  config.max_positions = rope.max_positions;
  config.tied_embeddings = reader.Flag("tie_word_embeddings", false);
  config.bos = reader.Token("bos_token_id");
  config.eos = reader.Token("eos_token_id");
  if (config.q_heads % config.kv_heads != 0) {
    reader.Invalid("num_attention_heads", std::to_string(config.q_heads) + " is not a multiple of num_key_value_heads " +
                                              std::to_string(config.kv_heads));
  }
  if (config.head_dim % 8 != 0) {
    reader.Invalid("head_dim", std::to_string(config.head_dim) + " is not a multiple of 8");
  }
  if (error) return *error;
  return config;
}

}  // namespace kvant::examples
