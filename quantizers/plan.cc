#include "quantizers/plan.h"

#include <cmath>
#include <utility>

#include "kernels/rope_frequencies.h"

namespace kvant::quantizers {
namespace {

// Numbers of one token over all layers, keys or values. Bounds what a hostile spec can make codecs allocate for rotations and
// means.
constexpr std::uint64_t kMaxNumbersPerToken = std::uint64_t{1} << 24;
constexpr std::size_t kAlignment = 64;

Error Invalid(std::string message) { return Error{ErrorCode::kInvalidArgument, "store spec: " + std::move(message)}; }

std::size_t AlignUp(std::size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

Result<void> CheckRange(const char* field, std::uint64_t value, std::uint64_t min, std::uint64_t max,
                        std::uint64_t multiple = 1) {
  if (value >= min && value <= max && value % multiple == 0) return {};
  std::string text = std::string(field) + " " + std::to_string(value) + " is not ";
  if (multiple != 1) text += "a multiple of " + std::to_string(multiple) + " ";
  return Invalid(text + "in " + std::to_string(min) + ".." + std::to_string(max));
}

Result<void> CheckName(const std::string& name) {
  constexpr std::string_view kPunctuation = "._/:=,-";
  if (name.empty() || name.size() > 128) return Invalid("name has " + std::to_string(name.size()) + " characters, want 1..128");
  for (const char c : name) {
    const bool letter = (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (!letter && kPunctuation.find(c) == std::string_view::npos) {
      return Invalid("name holds a character outside [A-Za-z0-9._/:=,-] (code " +
                     std::to_string(static_cast<unsigned char>(c)) + ")");
    }
  }
  return {};
}

/// Rotary positions, and that keys before them can exist.
Result<void> CheckRope(const StoreSpec& spec) {
  if (auto rope = kernels::ComputeRopeFrequencies(spec.rope, spec.head_dim); !rope) return Invalid(rope.error().message);
  if (KeyStageName(spec.key_stage) == "unknown") {
    return Invalid("key_stage " + std::to_string(static_cast<unsigned>(spec.key_stage)) + " is unknown");
  }
  if (spec.key_stage == KeyStage::kBeforeRope && spec.rope.pairing == RopePairing::kNone) {
    return Invalid("key_stage before_rope needs rotary positions, but rope.pairing is none");
  }
  return {};
}

Result<void> CheckShape(const StoreSpec& spec) {
  if (auto ok = CheckName(spec.name); !ok) return ok;
  if (spec.model.empty()) return Invalid("model is empty; give a digest of the weights");
  if (spec.tokenizer.empty()) return Invalid("tokenizer is empty; give its digest or name");
  if (auto ok = CheckRange("layers", spec.layers, 1, 1024); !ok) return ok;
  if (auto ok = CheckRange("kv_heads", spec.kv_heads, 1, 1024); !ok) return ok;
  if (auto ok = CheckRange("head_dim", spec.head_dim, 8, 1024, 8); !ok) return ok;
  if (auto ok = CheckRange("block_tokens", spec.block_tokens, 16, 1024, 16); !ok) return ok;
  if (auto ok = CheckRange("sink_tokens", spec.sink_tokens, 0, spec.block_tokens); !ok) return ok;
  if (spec.dtype != ElementType::kF32 && spec.dtype != ElementType::kF16 && spec.dtype != ElementType::kBF16) {
    return Invalid("dtype " + std::to_string(static_cast<unsigned>(spec.dtype)) + " is unknown");
  }
  const std::uint64_t numbers = std::uint64_t{spec.layers} * spec.kv_heads * spec.head_dim;
  if (numbers > kMaxNumbersPerToken) {
    return Invalid("layers * kv_heads * head_dim is " + std::to_string(numbers) + ", at most " +
                   std::to_string(kMaxNumbersPerToken));
  }
  return CheckRope(spec);
}

/// One side of one layer of the plan before anything is built.
struct Choice {
  ParsedSpec keys;
  ParsedSpec values;
};

Result<ParsedSpec> Choose(const Registry& registry, const StoreSpec& spec, Side side, const std::string& text,
                          const std::string& where) {
  auto parsed = registry.Parse(text);
  if (!parsed) return Error{parsed.error().code, "store spec: " + where + ": " + parsed.error().message};
  const Codec& codec = *parsed->codec;
  if (side == Side::kKeys ? codec.make_keys == nullptr : codec.make_values == nullptr) {
    return Error{ErrorCode::kUnsupported,
                 "store spec: " + where + ": codec " + std::string(codec.name) + " is not offered for this side"};
  }
  const std::uint32_t multiple = codec.block_multiple == nullptr ? 1 : codec.block_multiple(parsed->params);
  if (spec.block_tokens % multiple != 0) {
    return Invalid(where + ": codec " + parsed->Canonical() + " needs block_tokens in multiples of " +
                   std::to_string(multiple) + ", not " + std::to_string(spec.block_tokens));
  }
  return parsed;
}

/// The codecs of every layer: the default, overridden in order.
Result<std::vector<Choice>> ChooseAll(const Registry& registry, const StoreSpec& spec) {
  auto keys = Choose(registry, spec, Side::kKeys, spec.plan.keys, "plan.keys");
  if (!keys) return keys.error();
  auto values = Choose(registry, spec, Side::kValues, spec.plan.values, "plan.values");
  if (!values) return values.error();
  std::vector<Choice> choices(spec.layers, Choice{*keys, *values});
  for (std::size_t i = 0; i < spec.plan.overrides.size(); ++i) {
    const LayerPlan& entry = spec.plan.overrides[i];
    const std::string where = "plan.overrides[" + std::to_string(i) + "]";
    if (entry.first_layer > entry.last_layer || entry.last_layer >= spec.layers) {
      return Invalid(where + ": layers " + std::to_string(entry.first_layer) + ".." + std::to_string(entry.last_layer) +
                     " do not lie in 0.." + std::to_string(spec.layers - 1));
    }
    auto layer_keys = Choose(registry, spec, Side::kKeys, entry.keys, where + ".keys");
    if (!layer_keys) return layer_keys.error();
    auto layer_values = Choose(registry, spec, Side::kValues, entry.values, where + ".values");
    if (!layer_values) return layer_values.error();
    for (std::size_t layer = entry.first_layer; layer <= entry.last_layer; ++layer)
      choices[layer] = {*layer_keys, *layer_values};
  }
  return choices;
}

}  // namespace

Result<std::unique_ptr<const Plan>> Plan::Make(const Registry& registry, const StoreSpec& spec) {
  if (auto ok = CheckShape(spec); !ok) return ok.error();
  auto choices = ChooseAll(registry, spec);
  if (!choices) return choices.error();

  std::unique_ptr<Plan> plan(new Plan(spec));
  if (!spec.plan.artifact.empty()) {
    auto artifact = Artifact::Make(spec.plan.artifact);
    if (!artifact) return artifact.error();
    plan->artifact_ = *std::move(artifact);
    plan->canonical_ = "artifact " + plan->artifact_->digest() + "\n";
  }
  for (std::uint32_t layer = 0; layer < spec.layers; ++layer) {
    const Choice& choice = (*choices)[layer];
    CodecConfig config{Side::kKeys,          layer,
                       spec.kv_heads,        spec.head_dim,
                       spec.block_tokens,    plan->spec_.model,
                       plan->spec_.rope,     choice.keys.params,
                       plan->artifact_.get()};
    auto keys = choice.keys.codec->make_keys(config);
    if (!keys) return keys.error();
    if (const KeyStage wanted = (*keys)->pre_rope() ? KeyStage::kBeforeRope : KeyStage::kAfterRope; wanted != spec.key_stage) {
      return Invalid("layer " + std::to_string(layer) + " keys: codec " + choice.keys.Canonical() + " needs key_stage " +
                     std::string(KeyStageName(wanted)) + ", the store has " + std::string(KeyStageName(spec.key_stage)));
    }
    config.side = Side::kValues;
    config.params = choice.values.params;
    auto values = choice.values.codec->make_values(config);
    if (!values) return values.error();

    LayerCodecs codecs{*std::move(keys), *std::move(values), plan->payload_bytes_, 0, 0, 0.0f};
    codecs.values_offset = AlignUp(codecs.keys->block_bytes());
    codecs.head_stride = codecs.values_offset + AlignUp(codecs.values->block_bytes());
    if (choice.values.codec->gaussian_error != nullptr) {
      const double error = choice.values.codec->gaussian_error(Side::kValues, spec.head_dim, choice.values.params);
      codecs.negligible_weight = static_cast<float>(0.01 * std::sqrt(error));
    }
    plan->payload_bytes_ += codecs.head_stride * spec.kv_heads;
    plan->layers_.push_back(std::move(codecs));
    plan->canonical_ +=
        "layer " + std::to_string(layer) + " keys " + choice.keys.Canonical() + " values " + choice.values.Canonical() + "\n";
  }
  return std::unique_ptr<const Plan>(std::move(plan));
}

std::size_t Plan::logical_bytes() const noexcept {
  return std::size_t{2} * 2 * spec_.block_tokens * spec_.layers * spec_.kv_heads * spec_.head_dim;
}

}  // namespace kvant::quantizers
