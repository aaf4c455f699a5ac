#include "tools/bench/operations.h"

#include <cstddef>
#include <string_view>

namespace kvant::tools {
namespace {

using quantizers::ParsedSpec;

std::size_t IndexOf(const ParsedSpec& spec, std::string_view name) {
  std::size_t i = 0;
  while (spec.codec->params[i].name != name) ++i;
  return i;
}
double Integer(const ParsedSpec& spec, std::string_view name) {
  return static_cast<double>(quantizers::Params(spec.params).Integer(IndexOf(spec, name)));
}
const ParsedSpec& Nested(const ParsedSpec& spec, std::string_view name) {
  return quantizers::Params(spec.params).Spec(IndexOf(spec, name));
}

Operations Sum(const Operations& a, const Operations& b) { return {a.bytes + b.bytes, a.words + b.words, a.floats + b.floats}; }

}  // namespace

Operations OperationsOf(const ParsedSpec& spec, double head_dim) {
  const std::string_view name = spec.codec->name;
  // Sums of floats: raw rows, and codes whose numbers are folded up or turned as floats.
  for (const std::string_view floats : {"f32", "f16", "bf16", "polarquant", "commvq"}) {
    if (name == floats) return {.floats = head_dim};
  }
  if (name == "int8") return {.words = head_dim};
  if (name == "turboquant_mse" && (Integer(spec, "bits") > 4 || Integer(spec, "planes") != 0)) return {.words = head_dim};
  if (name == "kivi" && Integer(spec, "bits") > 4) return {.words = head_dim};
  if (name == "qjl") return {.bytes = Integer(spec, "m") == 0 ? 2 * head_dim : Integer(spec, "m")};
  if (name == "turboquant_prod") return {.bytes = head_dim + (Integer(spec, "m") == 0 ? head_dim : Integer(spec, "m"))};
  if (name == "gauge") return OperationsOf(Nested(spec, "codes"), head_dim);
  if (name == "outlier") {
    const double hot = Integer(spec, "channels");
    return Sum(OperationsOf(Nested(spec, "hot"), hot), OperationsOf(Nested(spec, "rest"), head_dim - hot));
  }
  return {.bytes = head_dim};
}

}  // namespace kvant::tools
