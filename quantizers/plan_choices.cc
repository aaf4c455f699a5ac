#include "quantizers/plan_choices.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "quantizers/plan.h"
#include "quantizers/presets.h"

namespace kvant::quantizers {
namespace {

Error Invalid(std::string message) { return Error{ErrorCode::kInvalidArgument, "store spec: " + std::move(message)}; }

/// Puts `choice` over what its heads had; neighbours with the same codecs become one.
void Override(std::vector<Choice>& choices, const Choice& choice) {
  std::vector<Choice> result;
  const auto add = [&](Choice next) {
    if (next.begin >= next.end) return;
    if (!result.empty() && result.back().SameCodecs(next)) {
      result.back().end = next.end;
    } else {
      result.push_back(next);
    }
  };
  const auto add_cut = [&](Choice next, std::uint32_t begin, std::uint32_t end) {
    next.begin = std::max(next.begin, begin);
    next.end = std::min(next.end, end);
    add(next);
  };
  for (const Choice& before : choices) add_cut(before, 0, choice.begin);
  add(choice);
  for (const Choice& after : choices) add_cut(after, choice.end, std::numeric_limits<std::uint32_t>::max());
  choices = std::move(result);
}

Result<void> CheckOverride(const LayerPlan& entry, const StoreSpec& spec, const std::string& where) {
  if (entry.first_layer > entry.last_layer || entry.last_layer >= spec.layers) {
    return Invalid(where + ": layers " + std::to_string(entry.first_layer) + ".." + std::to_string(entry.last_layer) +
                   " do not lie in 0.." + std::to_string(spec.layers - 1));
  }
  if (entry.first_head > entry.last_head || (entry.last_head >= spec.kv_heads && entry.last_head != LayerPlan::kLastHead)) {
    return Invalid(where + ": KV heads " + std::to_string(entry.first_head) + ".." + std::to_string(entry.last_head) +
                   " do not lie in 0.." + std::to_string(spec.kv_heads - 1));
  }
  return {};
}

}  // namespace

Result<std::size_t> Specs::Number(const std::string& text, const std::string& where) {
  if (const auto known = numbers_.find(text); known != numbers_.end()) return known->second;
  const auto spec = ResolveText(text, side_, store_);
  if (!spec) return Error{spec.error().code, "store spec: " + where + ": " + spec.error().message};
  auto parsed = registry_.Parse(*spec);
  if (!parsed) {
    std::string presets;
    for (const Preset& preset : Presets()) presets += (presets.empty() ? "" : ", ") + std::string(preset.name);
    const bool word = text.find_first_of(":@(") == std::string::npos;  // perhaps meant as a preset
    return Error{parsed.error().code,
                 "store spec: " + where + ": " + parsed.error().message + (word ? "; presets: " + presets : "")};
  }
  const Codec& codec = *parsed->codec;
  if (side_ == Side::kKeys ? codec.make_keys == nullptr : codec.make_values == nullptr) {
    return Error{ErrorCode::kUnsupported,
                 "store spec: " + where + ": codec " + std::string(codec.name) + " is not offered for this side"};
  }
  const std::uint32_t multiple = BlockMultiple(*parsed);
  if (store_.block_tokens % multiple != 0) {
    return Invalid(where + ": codec " + parsed->Canonical() + " needs block_tokens in multiples of " +
                   std::to_string(multiple) + ", not " + std::to_string(store_.block_tokens));
  }
  canonical_.push_back(parsed->Canonical());
  parsed_.push_back(*std::move(parsed));
  numbers_.emplace(text, parsed_.size() - 1);
  return parsed_.size() - 1;
}

Result<std::vector<std::vector<Choice>>> ChooseCodecs(const StoreSpec& spec, Specs& keys, Specs& values) {
  const auto choose = [&](const std::string& keys_text, const std::string& values_text, const std::string& where,
                          Choice choice) -> Result<Choice> {
    auto of_keys = keys.Number(keys_text, where + "keys");
    if (!of_keys) return of_keys.error();
    auto of_values = values.Number(values_text, where + "values");
    if (!of_values) return of_values.error();
    choice.keys = *of_keys;
    choice.values = *of_values;
    return choice;
  };
  auto everywhere = choose(spec.plan.keys, spec.plan.values, "plan.", {.begin = 0, .end = spec.kv_heads});
  if (!everywhere) return everywhere.error();
  std::vector<std::vector<Choice>> layers(spec.layers, {*everywhere});
  if (spec.plan.overrides.size() > kMaxOverrides) {
    return Invalid("plan.overrides has " + std::to_string(spec.plan.overrides.size()) + " entries, at most " +
                   std::to_string(kMaxOverrides));
  }
  std::size_t layers_named = 0;
  for (std::size_t i = 0; i < spec.plan.overrides.size(); ++i) {
    const LayerPlan& entry = spec.plan.overrides[i];
    const std::string where = "plan.overrides[" + std::to_string(i) + "]";
    if (auto ok = CheckOverride(entry, spec, where); !ok) return ok.error();
    layers_named += entry.last_layer - entry.first_layer + 1;
    if (layers_named > kMaxOverrideLayers) {
      return Invalid(where + ": the overrides name more than " + std::to_string(kMaxOverrideLayers) + " layers together");
    }
    auto choice = choose(entry.keys, entry.values, where + ".",
                         {.begin = entry.first_head, .end = std::min(entry.last_head, spec.kv_heads - 1) + 1});
    if (!choice) return choice.error();
    for (std::size_t layer = entry.first_layer; layer <= entry.last_layer; ++layer) Override(layers[layer], *choice);
  }
  return layers;
}

Result<std::string> PlanText(const std::vector<std::vector<Choice>>& layers, const Specs& keys, const Specs& values) {
  std::string text;
  for (std::size_t layer = 0; layer < layers.size(); ++layer) {
    for (const Choice& choice : layers[layer]) {
      text += "layer " + std::to_string(layer);
      if (layers[layer].size() > 1) text += " heads " + std::to_string(choice.begin) + ".." + std::to_string(choice.end - 1);
      text += " keys " + keys.canonical(choice.keys) + " values " + values.canonical(choice.values) + "\n";
    }
    if (text.size() > kMaxPlanText) {
      return Invalid("the plan's text has more than " + std::to_string(kMaxPlanText) + " bytes in its first " +
                     std::to_string(layer + 1) + " layers");
    }
  }
  return text;
}

}  // namespace kvant::quantizers
