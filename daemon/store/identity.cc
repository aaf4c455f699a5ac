#include "daemon/store/identity.h"

#include <algorithm>
#include <cstdio>
#include <map>
#include <string_view>
#include <utility>
#include <variant>

#include "protocol/digest.h"

namespace kvant::daemon {
namespace {

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.17g", value);  // enough digits to tell any two doubles apart
  return text;
}

std::string Numbers(const std::vector<double>& values) {
  std::string text;
  for (const double value : values) text += (text.empty() ? "" : ",") + Number(value);
  return text;
}

const char* PairingName(RopePairing pairing) {
  switch (pairing) {
    case RopePairing::kNone: return "none";
    case RopePairing::kHalfSplit: return "half_split";
    case RopePairing::kAdjacent: return "adjacent";
  }
  return "unknown";
}

/// One overload per scaling: its name, then all of its numbers.
struct AddScaling {
  std::vector<IdentityField>& fields;

  void operator()(std::monostate) { Name("none"); }
  void operator()(const RopeLinear& linear) {
    Name("linear");
    Add("factor", Number(linear.factor));
  }
  void operator()(const RopeDynamic& dynamic) {
    Name("dynamic");
    Add("factor", Number(dynamic.factor));
    Add("original_positions", std::to_string(dynamic.original_positions));
    Add("context_tokens", std::to_string(dynamic.context_tokens));
  }
  void operator()(const RopeYarn& yarn) {
    Name("yarn");
    Add("factor", Number(yarn.factor));
    Add("original_positions", std::to_string(yarn.original_positions));
    Add("beta_fast", Number(yarn.beta_fast));
    Add("beta_slow", Number(yarn.beta_slow));
    Add("truncate", yarn.truncate ? "true" : "false");
    Add("attention_factor", Number(yarn.attention_factor));
  }
  void operator()(const RopeLlama3& llama3) {
    Name("llama3");
    Add("factor", Number(llama3.factor));
    Add("original_positions", std::to_string(llama3.original_positions));
    Add("low_freq_factor", Number(llama3.low_freq_factor));
    Add("high_freq_factor", Number(llama3.high_freq_factor));
  }
  void operator()(const RopeLong& longrope) {
    Name("long");
    Add("factor", Number(longrope.factor));
    Add("original_positions", std::to_string(longrope.original_positions));
    Add("context_tokens", std::to_string(longrope.context_tokens));
    Add("short_factors", Numbers(longrope.short_factors));
    Add("long_factors", Numbers(longrope.long_factors));
    Add("attention_factor", Number(longrope.attention_factor));
  }

 private:
  void Name(const char* name) { fields.push_back({"rope.scaling", name}); }
  void Add(const char* name, std::string value) { fields.push_back({std::string("rope.") + name, std::move(value)}); }
};

/// At most 80 bytes, so that no value floods a log; bytes outside printable ASCII as \xHH, so that none forges a line.
std::string Shown(const std::string& value) {
  constexpr std::size_t kMost = 80;
  std::string text = "'";
  for (const char c : value.substr(0, kMost)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f && c != '\'' && c != '\\') {
      text += c;
      continue;
    }
    char escaped[5];
    std::snprintf(escaped, sizeof escaped, "\\x%02x", byte);
    text += escaped;
  }
  return text + (value.size() > kMost ? "...'" : "'");
}

/// The first of each name.
std::map<std::string_view, const IdentityField*> ByName(const std::vector<IdentityField>& fields) {
  std::map<std::string_view, const IdentityField*> by_name;
  for (const IdentityField& field : fields) by_name.emplace(field.name, &field);
  return by_name;
}

/// Null where there is none.
const IdentityField* FindField(const std::map<std::string_view, const IdentityField*>& by_name, const std::string& name) {
  const auto it = by_name.find(name);
  return it == by_name.end() ? nullptr : it->second;
}

/// The plan's text has one line per fact: "artifact HEX", "layer 3 keys ... values ...". The first words name the field.
void AddPlanLines(const std::string& canonical, std::vector<IdentityField>& fields) {
  std::string artifact = "none";
  std::vector<IdentityField> layers;
  for (std::size_t begin = 0; begin < canonical.size();) {
    const std::size_t end = std::min(canonical.find('\n', begin), canonical.size());
    const std::string line = canonical.substr(begin, end - begin);
    begin = end + 1;
    if (line.rfind("artifact ", 0) == 0) {
      artifact = line.substr(9);
      continue;
    }
    const std::size_t codecs = line.find(" keys ");
    layers.push_back(codecs == std::string::npos ? IdentityField{"plan line " + std::to_string(layers.size()), line}
                                                 : IdentityField{"plan " + line.substr(0, codecs), line.substr(codecs + 1)});
  }
  fields.push_back({"plan.artifact", std::move(artifact)});
  for (IdentityField& layer : layers) fields.push_back(std::move(layer));
}

/// All but what the plan says.
std::vector<IdentityField> FieldsOfSpec(const StoreSpec& spec) {
  std::vector<IdentityField> fields = {
      {"layout_version", std::to_string(protocol::kSegmentLayoutVersion)},
      {"model", spec.model},
      {"tokenizer", spec.tokenizer},
      {"adapter", spec.adapter},
      {"salt", spec.salt},
      {"rope.pairing", PairingName(spec.rope.pairing)},
      {"rope.theta", Number(spec.rope.theta)},
      {"rope.rotary_dims", std::to_string(spec.rope.rotary_dims == 0 ? spec.head_dim : spec.rope.rotary_dims)},
  };
  std::visit(AddScaling{fields}, spec.rope.scaling);
  fields.insert(fields.end(), {
                                  {"key_stage", std::string(KeyStageName(spec.key_stage))},
                                  {"layers", std::to_string(spec.layers)},
                                  {"kv_heads", std::to_string(spec.kv_heads)},
                                  {"head_dim", std::to_string(spec.head_dim)},
                                  {"dtype", ElementTypeName(spec.dtype)},
                                  {"block_tokens", std::to_string(spec.block_tokens)},
                                  {"sink_tokens", std::to_string(spec.sink_tokens)},
                              });
  return fields;
}

}  // namespace

std::vector<IdentityField> IdentityFields(const quantizers::Plan& plan) {
  std::vector<IdentityField> fields = FieldsOfSpec(plan.spec());
  AddPlanLines(plan.canonical(), fields);
  return fields;
}

protocol::Digest SpellingDigest(const StoreSpec& spec) {
  std::vector<IdentityField> fields = FieldsOfSpec(spec);
  const std::vector<std::byte>& artifact = spec.plan.artifact;
  const protocol::Digest image = protocol::DigestOf({reinterpret_cast<const char*>(artifact.data()), artifact.size()});
  fields.push_back({"artifact", artifact.empty() ? "none" : protocol::DigestHex(image)});
  fields.push_back({"keys", spec.plan.keys});
  fields.push_back({"values", spec.plan.values});
  for (const LayerPlan& entry : spec.plan.overrides) {
    fields.push_back({"layers", std::to_string(entry.first_layer) + ".." + std::to_string(entry.last_layer)});
    fields.push_back({"heads", std::to_string(entry.first_head) + ".." + std::to_string(entry.last_head)});
    fields.push_back({"keys", entry.keys});
    fields.push_back({"values", entry.values});
  }
  return IdentityDigest(fields);
}

std::string CanonicalIdentity(const std::vector<IdentityField>& fields) {
  std::string text;
  for (const IdentityField& field : fields) {
    text += field.name + " " + std::to_string(field.value.size()) + ":" + field.value + "\n";
  }
  return text;
}

protocol::Digest IdentityDigest(const std::vector<IdentityField>& fields) {
  return protocol::DigestOf(CanonicalIdentity(fields));
}

std::string IdentityDifference(const std::vector<IdentityField>& existing, const std::vector<IdentityField>& asked) {
  constexpr std::size_t kMost = 16;  // a plan may have thousands of lines
  std::string text;
  std::size_t count = 0;
  const auto differs = [&](const std::string& name, const IdentityField* ours, const IdentityField* theirs) {
    if (++count > kMost) return;
    const auto shown = [&](const IdentityField* field) {
      if (field == nullptr) return std::string("nothing");
      return name == "salt" ? std::string("(hidden)") : Shown(field->value);
    };
    text += (text.empty() ? "" : "; ") + name + ": the store has " + shown(ours) + ", asked for " + shown(theirs);
  };
  const auto asked_by_name = ByName(asked);
  for (const IdentityField& field : existing) {
    const IdentityField* other = FindField(asked_by_name, field.name);
    if (other == nullptr || other->value != field.value) differs(field.name, &field, other);
  }
  const auto existing_by_name = ByName(existing);
  for (const IdentityField& field : asked) {
    if (FindField(existing_by_name, field.name) == nullptr) differs(field.name, nullptr, &field);
  }
  if (count > kMost) text += "; and " + std::to_string(count - kMost) + " more";
  return text;
}

}  // namespace kvant::daemon
