#include "client/examples/llama/rope_config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <initializer_list>
#include <string>
#include <string_view>

#include <kvant/client.h>

#include "client/examples/llama/field_reader.h"
#include "quantizers/bounded_json.h"

namespace kvant::examples {
namespace {

using Json = nlohmann::json;
using quantizers::ShownJson;

constexpr std::size_t kMaxPositions = std::size_t{1} << 30;
constexpr std::size_t kMaxPairs = 512;

/// The fields of one kind of scaling besides those that all have.
struct Kind {
  std::string_view name;
  std::array<std::string_view, 8> fields;
};
constexpr Kind kKinds[] = {
    {"default", {}},
    {"linear", {"factor"}},
    {"dynamic", {"factor", "original_max_position_embeddings"}},
    {"yarn",
     {"factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
      "truncate"}},
    {"llama3", {"factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"}},
    {"longrope", {"factor", "original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"}},
};

/// All of it stands in one object, or is spread over the configuration.
class RopeReader {
 public:
  RopeReader(const Json& config, const Json& object, const std::string& prefix, std::optional<Error>& error)
      : config_(config), object_(object), top_(config, "", error), scaling_(object, prefix, error) {}

  RopeConfig Read(std::size_t head_dim) {
    RopeConfig rope;
    rope.max_positions = top_.Size("max_position_embeddings", kMaxPositions, 2048);
    rope.spec.pairing = RopePairing::kHalfSplit;
    rope.spec.theta = Agreed("rope_theta", 10000.0);
    rope.spec.rotary_dims = RotaryDims(head_dim);
    const std::string kind = KindName();
    RefuseUnknownFields(kind);
    if (kind == "linear") rope.spec.scaling = RopeLinear{Factor()};
    if (kind == "dynamic") ReadDynamic(rope);
    if (kind == "yarn") rope.spec.scaling = Yarn(rope.max_positions);
    if (kind == "llama3") rope.spec.scaling = Llama3();
    if (kind == "longrope") rope.spec.scaling = Long(rope.max_positions);
    return rope;
  }

 private:
  /// A number that may stand in the object, at the top, or in both if they agree.
  double Agreed(const char* name, double fallback) {
    const double top = top_.Positive(name, fallback);
    const double inner = scaling_.Positive(name, top);
    if (&config_ != &object_ && top_.Has(name) && inner != top) {
      top_.Invalid(name,
                   ShownJson(*top_.Find(name)) + " differs from " + ShownJson(*scaling_.Find(name)) + " beside the scaling");
    }
    return inner;
  }

  std::uint32_t RotaryDims(std::size_t head_dim) {
    const double share = Agreed("partial_rotary_factor", 1.0);
    const double dims = std::floor(static_cast<double>(head_dim) * share);
    if (dims < 2 || dims > static_cast<double>(head_dim) || std::fmod(dims, 2) != 0) {
      top_.Invalid("partial_rotary_factor", "makes " + std::to_string(dims) + " rotary dims of a head of " +
                                                std::to_string(head_dim) + "; an even number of them is needed");
      return 0;
    }
    return dims == static_cast<double>(head_dim) ? 0 : static_cast<std::uint32_t>(dims);
  }

  /// "rope_type", once called "type"; where both stand they must agree.
  std::string KindName() {
    const Json none = "default";
    const Json* newer = scaling_.Find("rope_type");
    const Json* older = scaling_.Find("type");
    if (newer != nullptr && older != nullptr && *newer != *older) {
      scaling_.Unsupported("type", *older, "the rope_type beside it, " + ShownJson(*newer));
    }
    const Json& kind = newer != nullptr ? *newer : older != nullptr ? *older : none;
    if (kind == "su") return "longrope";  // its first name
    for (const Kind& known : kKinds) {
      if (kind == std::string(known.name)) return std::string(known.name);
    }
    scaling_.Unsupported("rope_type", kind, "default, linear, dynamic, yarn, llama3 and longrope");
    return "default";
  }

  void RefuseUnknownFields(const std::string& kind) {
    const auto among = [](const std::string& name, std::initializer_list<std::string_view> names) {
      return std::find(names.begin(), names.end(), name) != names.end();
    };
    for (const auto& [name, value] : config_.items()) {
      const bool about_rope = name.starts_with("rope") || name.starts_with("rotary") || name.find("mrope") != std::string::npos;
      if (about_rope && !value.is_null() && !among(name, {"rope_theta", "rope_scaling", "rope_parameters"})) {
        top_.Unsupported(name, value, "rotary positions without it");
      }
    }
    if (&config_ == &object_) return;
    const auto* known = std::find_if(std::begin(kKinds), std::end(kKinds), [&](const Kind& k) { return k.name == kind; });
    for (const auto& [name, value] : object_.items()) {
      const bool common = among(name, {"rope_type", "type", "rope_theta", "partial_rotary_factor"});
      if (!common && !value.is_null() && std::find(known->fields.begin(), known->fields.end(), name) == known->fields.end()) {
        scaling_.Unsupported(name, value, kind + " rotary positions without it");
      }
    }
  }

  double Factor() { return scaling_.Positive("factor"); }

  std::uint32_t Original(std::optional<std::size_t> fallback) {
    return static_cast<std::uint32_t>(scaling_.Size("original_max_position_embeddings", kMaxPositions, fallback));
  }

  /// 0, the scaling's own formula, if the configuration names none.
  double AttentionFactor() { return scaling_.Has("attention_factor") ? scaling_.Positive("attention_factor") : 0.0; }

  /// The configuration names the context of the training, and the factor says how far it reaches beyond.
  void ReadDynamic(RopeConfig& rope) {
    RopeDynamic dynamic{.factor = Factor(), .original_positions = Original(rope.max_positions)};
    if (!scaling_.Has("original_max_position_embeddings")) {
      const double reach = std::floor(static_cast<double>(rope.max_positions) * dynamic.factor);
      rope.max_positions = static_cast<std::size_t>(std::min(reach, static_cast<double>(kMaxPositions)));
    }
    dynamic.context_tokens = static_cast<std::uint32_t>(rope.max_positions);
    rope.spec.scaling = dynamic;
  }

  RopeYarn Yarn(std::size_t max_positions) {
    RopeYarn yarn{.factor = Factor(),
                  .original_positions = Original(max_positions),
                  .beta_fast = scaling_.Positive("beta_fast", 32.0),
                  .beta_slow = scaling_.Positive("beta_slow", 1.0),
                  .truncate = scaling_.Flag("truncate", true),
                  .attention_factor = AttentionFactor()};
    // DeepSeek's two weights count where both are given, and where nothing gives the factor itself.
    if (yarn.attention_factor == 0.0 && scaling_.Has("mscale") && scaling_.Has("mscale_all_dim")) {
      const auto magnitude = [&](double weight) { return 0.1 * weight * std::log(yarn.factor) + 1.0; };
      yarn.attention_factor = magnitude(scaling_.Positive("mscale")) / magnitude(scaling_.Positive("mscale_all_dim"));
    }
    return yarn;
  }

  RopeLlama3 Llama3() {
    return {.factor = Factor(),
            .original_positions = Original(std::nullopt),
            .low_freq_factor = scaling_.Positive("low_freq_factor"),
            .high_freq_factor = scaling_.Positive("high_freq_factor")};
  }

  /// Phi 3 names the context of the training at the top, and the factor then follows from it.
  RopeLong Long(std::size_t max_positions) {
    RopeLong longrope{.short_factors = scaling_.Numbers("short_factor", kMaxPairs),
                      .long_factors = scaling_.Numbers("long_factor", kMaxPairs),
                      .attention_factor = AttentionFactor()};
    const std::size_t inner = scaling_.Size("original_max_position_embeddings", kMaxPositions, max_positions);
    const std::size_t original = top_.Size("original_max_position_embeddings", kMaxPositions, inner);
    longrope.original_positions = static_cast<std::uint32_t>(original);
    longrope.context_tokens = static_cast<std::uint32_t>(max_positions);
    const double ratio = static_cast<double>(max_positions) / static_cast<double>(original);
    longrope.factor = original != max_positions ? ratio : scaling_.Positive("factor", 1.0);
    return longrope;
  }

  const Json& config_;
  const Json& object_;
  FieldReader top_;
  FieldReader scaling_;
};

}  // namespace

RopeConfig ReadRopeConfig(const Json& config, std::size_t head_dim, std::optional<Error>& error) {
  FieldReader top(config, "", error);
  const Json* object = &config;
  std::string prefix;
  for (const char* name : {"rope_parameters", "rope_scaling"}) {
    const Json* found = top.Find(name);
    if (found == nullptr) continue;
    if (!found->is_object()) {
      top.Invalid(name, "is not an object");
    } else if (object != &config && *object != *found) {
      top.Invalid(name, "differs from " + prefix.substr(0, prefix.size() - 1));
    } else {
      object = found;
      prefix = std::string(name) + ".";
    }
  }
  const RopeConfig rope = RopeReader(config, *object, prefix, error).Read(head_dim);
  if (error) return rope;
  const auto checked = ComputeRopeFrequencies(rope.spec, static_cast<std::uint32_t>(head_dim));
  if (!checked) error = Error{checked.error().code, "config.json: " + checked.error().message};
  return rope;
}

}  // namespace kvant::examples
