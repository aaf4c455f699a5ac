#include "client/python/core/spec.h"

#include <cstring>
#include <string>
#include <vector>

#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "client/python/core/arrays.h"
#include "client/python/core/errors.h"

namespace nb = nanobind;

namespace kvant::python {
namespace {

template <typename T>
T Field(nb::handle object, const char* name) {
  T value{};
  const nb::object field = object.attr(name);
  if (!nb::try_cast(field, value)) {
    Refuse(std::string("store spec: ") + name + " is " + nb::repr(field).c_str());
  }
  return value;
}

std::vector<std::byte> Bytes(nb::handle object, const char* name) {
  const auto bytes = Field<nb::bytes>(object, name);
  std::vector<std::byte> copy(bytes.size());
  if (!copy.empty()) std::memcpy(copy.data(), bytes.data(), copy.size());
  return copy;
}

RopeScaling ReadScaling(nb::handle rope) {
  const auto kind = Field<std::string>(rope, "scaling");
  const auto factor = Field<double>(rope, "factor");
  const auto original = Field<std::uint32_t>(rope, "original_positions");
  const auto context = Field<std::uint32_t>(rope, "context_tokens");
  const auto attention = Field<double>(rope, "attention_factor");
  if (kind == "none") return {};
  if (kind == "linear") return RopeLinear{factor};
  if (kind == "dynamic") return RopeDynamic{factor, original, context};
  if (kind == "yarn") {
    return RopeYarn{
        factor,   original, Field<double>(rope, "beta_fast"), Field<double>(rope, "beta_slow"), Field<bool>(rope, "truncate"),
        attention};
  }
  if (kind == "llama3") {
    return RopeLlama3{factor, original, Field<double>(rope, "low_freq_factor"), Field<double>(rope, "high_freq_factor")};
  }
  if (kind == "long") {
    return RopeLong{.factor = factor,
                    .original_positions = original,
                    .context_tokens = context,
                    .short_factors = Field<std::vector<double>>(rope, "short_factors"),
                    .long_factors = Field<std::vector<double>>(rope, "long_factors"),
                    .attention_factor = attention};
  }
  Refuse("rope: scaling \"" + kind + "\" is unknown: none, linear, dynamic, yarn, llama3 or long");
}

}  // namespace

RopeSpec ReadRope(nb::handle rope) {
  RopeSpec spec;
  const auto pairing = Field<std::string>(rope, "pairing");
  if (pairing == "half_split") {
    spec.pairing = RopePairing::kHalfSplit;
  } else if (pairing == "adjacent") {
    spec.pairing = RopePairing::kAdjacent;
  } else if (pairing != "none") {
    Refuse("rope: pairing \"" + pairing + "\" is unknown: none, half_split or adjacent");
  }
  spec.theta = Field<double>(rope, "theta");
  spec.rotary_dims = Field<std::uint32_t>(rope, "rotary_dims");
  spec.scaling = ReadScaling(rope);
  return spec;
}

StoreSpec ReadSpec(nb::handle from) {
  StoreSpec spec;
  spec.name = Field<std::string>(from, "name");
  spec.model = Field<std::string>(from, "model");
  spec.tokenizer = Field<std::string>(from, "tokenizer");
  spec.adapter = Field<std::string>(from, "adapter");
  spec.salt = Field<std::string>(from, "salt");
  spec.rope = ReadRope(from.attr("rope"));
  const auto stage = Field<std::string>(from, "key_stage");
  if (stage != "after_rope" && stage != "before_rope") {
    Refuse("store spec: key_stage \"" + stage + "\" is unknown: after_rope or before_rope");
  }
  spec.key_stage = stage == "before_rope" ? KeyStage::kBeforeRope : KeyStage::kAfterRope;
  spec.layers = Field<std::uint32_t>(from, "layers");
  spec.kv_heads = Field<std::uint32_t>(from, "kv_heads");
  spec.head_dim = Field<std::uint32_t>(from, "head_dim");
  spec.dtype = ParseElementType(Field<std::string>(from, "dtype"));
  spec.block_tokens = Field<std::uint32_t>(from, "block_tokens");
  spec.sink_tokens = Field<std::uint32_t>(from, "sink_tokens");
  spec.plan.keys = Field<std::string>(from, "keys");
  spec.plan.values = Field<std::string>(from, "values");
  for (const nb::handle plan : from.attr("overrides")) {
    spec.plan.overrides.push_back({.first_layer = Field<std::uint32_t>(plan, "first_layer"),
                                   .last_layer = Field<std::uint32_t>(plan, "last_layer"),
                                   .keys = Field<std::string>(plan, "keys"),
                                   .values = Field<std::string>(plan, "values"),
                                   .first_head = Field<std::uint32_t>(plan, "first_head"),
                                   .last_head = Field<std::uint32_t>(plan, "last_head")});
  }
  spec.plan.artifact = Bytes(from, "artifact");
  return spec;
}

}  // namespace kvant::python
