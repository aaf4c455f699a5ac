#include "client/examples/llama/config.h"

#include <cmath>
#include <optional>

#include <nlohmann/json.hpp>

namespace kvant::examples {
namespace {

using Json = nlohmann::json;

/// Reads fields and keeps the first complaint, so that the caller reads all and asks once.
class Reader {
 public:
  explicit Reader(const Json& json) : json_(json) {}

  std::size_t Size(const char* name, std::size_t at_most, std::optional<std::size_t> fallback = std::nullopt) {
    const auto it = json_.find(name);
    if (it == json_.end() || it->is_null()) {
      if (!fallback) Invalid(name, "is missing");
      return fallback.value_or(1);
    }
    if (!it->is_number_unsigned() || it->get<std::uint64_t>() == 0 || it->get<std::uint64_t>() > at_most) {
      Invalid(name, it->dump() + " is not an integer in 1.." + std::to_string(at_most));
      return 1;
    }
    return it->get<std::size_t>();
  }

  double Positive(const Json& object, const char* name, std::optional<double> fallback) {
    const auto it = object.find(name);
    if (it == object.end() || it->is_null()) {
      if (!fallback) Invalid(name, "is missing");
      return fallback.value_or(1);
    }
    if (!it->is_number() || !(it->get<double>() > 0) || !std::isfinite(it->get<double>())) {
      Invalid(name, it->dump() + " is not a positive number");
      return 1;
    }
    return it->get<double>();
  }

  bool Flag(const char* name, bool fallback) {
    const auto it = json_.find(name);
    if (it == json_.end() || it->is_null()) return fallback;
    if (!it->is_boolean()) {
      Invalid(name, it->dump() + " is not true or false");
      return fallback;
    }
    return it->get<bool>();
  }

  /// A token id, or the first of a list of them; -1 if there is none.
  std::int64_t Token(const char* name) {
    const auto it = json_.find(name);
    if (it == json_.end() || it->is_null()) return -1;
    const Json& id = it->is_array() && !it->empty() ? it->front() : *it;
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() > UINT32_MAX) {
      Invalid(name, it->dump() + " is not a token id");
      return -1;
    }
    return id.get<std::int64_t>();
  }

  void Invalid(const std::string& name, const std::string& what) {
    Complain(ErrorCode::kInvalidArgument, "config.json: '" + name + "' " + what);
  }
  void Unsupported(const std::string& name, const Json& value, const std::string& wanted) {
    Complain(ErrorCode::kUnsupported, "config.json: '" + name + "' is " + value.dump() + "; this engine computes " + wanted);
  }

  [[nodiscard]] const std::optional<Error>& error() const { return error_; }

 private:
  void Complain(ErrorCode code, std::string message) {
    if (!error_) error_ = Error{code, std::move(message)};
  }
  const Json& json_;
  std::optional<Error> error_;
};

void RefuseWhatIsNotComputed(const Json& json, Reader& reader) {
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
  const Json partial = json.value("partial_rotary_factor", Json(1.0));
  if (!partial.is_number() || partial.get<double>() != 1.0) {
    reader.Unsupported("partial_rotary_factor", partial, "RoPE over the whole head");
  }
}

/// The newer "rope_parameters" or the older "rope_theta" with "rope_scaling".
double RopeTheta(const Json& json, Reader& reader) {
  const Json* rope = &json;
  for (const char* name : {"rope_parameters", "rope_scaling"}) {
    const auto it = json.find(name);
    if (it == json.end() || it->is_null()) continue;
    if (!it->is_object()) {
      reader.Invalid(name, "is not an object");
      return 1;
    }
    const Json type = it->contains("rope_type") ? (*it)["rope_type"] : it->value("type", Json("default"));
    if (type != "default") reader.Unsupported(std::string(name) + ".rope_type", type, "\"default\" (no rope scaling)");
    if (it->contains("rope_theta")) rope = &*it;
  }
  return reader.Positive(*rope, "rope_theta", 10000.0);
}

}  // namespace

Result<Config> ParseConfig(const std::string& text) {
  const Json json = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Error{ErrorCode::kInvalidArgument, "config.json: not a JSON object"};
  Reader reader(json);
  RefuseWhatIsNotComputed(json, reader);
  if (reader.error()) return *reader.error();

  Config config;
  config.layers = reader.Size("num_hidden_layers", 1024);
  config.hidden = reader.Size("hidden_size", 1 << 17);
  config.intermediate = reader.Size("intermediate_size", 1 << 19);
  config.q_heads = reader.Size("num_attention_heads", 1024);
  config.kv_heads = reader.Size("num_key_value_heads", 1024, config.q_heads);
  config.head_dim = reader.Size("head_dim", 1024, std::max<std::size_t>(config.hidden / config.q_heads, 1));
  config.vocab = reader.Size("vocab_size", 1 << 24);
  config.max_positions = reader.Size("max_position_embeddings", std::size_t{1} << 30, 2048);
  config.rms_eps = reader.Positive(json, "rms_norm_eps", 1e-6);
  config.rope_theta = RopeTheta(json, reader);
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
  if (reader.error()) return *reader.error();
  return config;
}

}  // namespace kvant::examples
