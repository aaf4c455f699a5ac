#include "daemon/store/identity.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include "protocol/digest.h"

namespace kvant::daemon {
namespace {

std::string Number(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.17g", value);  // enough digits to tell any two doubles apart
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

}  // namespace

std::vector<IdentityField> IdentityFields(const quantizers::Plan& plan) {
  const StoreSpec& spec = plan.spec();
  std::vector<IdentityField> fields = {
      {"layout_version", std::to_string(protocol::kSegmentLayoutVersion)},
      {"name", spec.name},
      {"model", spec.model},
      {"tokenizer", spec.tokenizer},
      {"adapter", spec.adapter},
      {"salt", spec.salt},
      {"rope.pairing", PairingName(spec.rope.pairing)},
      {"rope.theta", Number(spec.rope.theta)},
      {"rope.rotary_dims", std::to_string(spec.rope.rotary_dims)},
      {"layers", std::to_string(spec.layers)},
      {"kv_heads", std::to_string(spec.kv_heads)},
      {"head_dim", std::to_string(spec.head_dim)},
      {"dtype", ElementTypeName(spec.dtype)},
      {"block_tokens", std::to_string(spec.block_tokens)},
      {"sink_tokens", std::to_string(spec.sink_tokens)},
  };
  AddPlanLines(plan.canonical(), fields);
  return fields;
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

Result<void> CompareIdentity(const std::string& store, const std::vector<IdentityField>& existing,
                             const std::vector<IdentityField>& asked) {
  const std::size_t common = std::min(existing.size(), asked.size());
  for (std::size_t i = 0; i < common; ++i) {
    // A tenant's salt is a secret: the message goes to whoever guessed wrong.
    const bool secret = existing[i].name == "salt";
    if (existing[i].name == asked[i].name && existing[i].value == asked[i].value) continue;
    return Error{ErrorCode::kIdentityMismatch, "open store " + store + ": " + existing[i].name + " differs: the store has '" +
                                                   (secret ? "(hidden)" : existing[i].value) + "', asked for '" +
                                                   (secret ? "(hidden)" : asked[i].value) + "'"};
  }
  if (existing.size() != asked.size()) {  // cannot be while "layers" is a field before the plan's
    return Error{ErrorCode::kIdentityMismatch, "open store " + store + ": the plan has another number of lines"};
  }
  return {};
}

}  // namespace kvant::daemon
