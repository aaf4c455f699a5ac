#include "quantizers/seed_methods.h"

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <map>
#include <optional>
#include <span>
#include <utility>

namespace kvant::quantizers {
namespace {

constexpr std::string_view kStart = "method=";
constexpr std::uint32_t kSubspace = 4;  // numbers that a word of vecinfer stands for

/// A knob's published default and, where it has no place in a plan at all, why.
struct Knob {
  std::string_view name;
  std::string_view fallback;
  std::string_view nowhere = {};
};

constexpr Knob kKnobs[] = {
    {"bits", "1"},
    {"value_bits", "2"},
    {"num_residuals", "2"},
    {"use_hadamard", "true", "kvant always rotates before it rounds"},
    {"codebook", "none", "it comes in the artifact, as the tensors layers.L.keys.codebook or layers.L.keys.commvq"},
    {"smooth_factors", "none", "they come in the artifact, as the tensors layers.L.keys.smooth"},
    {"rotations", "none", "they come in the artifact, as the tensors layers.L.keys.basis and layers.L.keys.deviation"},
    {"bit_allocation", "none", "the bits of single layers are overrides of the plan"},
    {"target_bits", "none", "it is allocated beforehand (KVCacheConfig of the Python package), into overrides of the plan"},
    {"outlier_observer", "none", "kvant calls nobody while it encodes"},
    {"use_fused_sdpa", "true", "kvant always attends on the codes"},
    {"seed", "0", "rotations come from the model's identity; a salt of the store's own keeps its blocks apart"},
    {"outlier_bits", "8"},
    {"n_outlier_channels", "none"},
    {"sketch_dim", "64"},
    {"jl_dim", "none"},
    {"num_clusters", "64"},
    {"num_subspaces", "none"},
    {"signal_bits", "4"},
    {"noise_bits", "1"},
    {"kivi_group_size", "32"},
};

/// A parameter of a codec and the knob that fills it.
struct Filled {
  std::string_view parameter;
  std::string_view knob;
};

struct Method {
  std::string_view name;
  std::string_view codec;        ///< of the keys
  std::string_view values = {};  ///< of the values, where value_bits is not said; empty: by value_bits
  std::span<const Filled> filled = {};
  std::string_view further = {};  ///< one more knob that means something
  bool own_values = false;        ///< values have the keys' codec, with value_bits for bits
  std::string_view least_bits = "1";
};

constexpr Filled kBits[] = {{"bits", "bits"}};
constexpr Filled kProd[] = {{"bits", "bits"}, {"m", "jl_dim"}};
constexpr Filled kSketch[] = {{"m", "sketch_dim"}};
constexpr Filled kAngles[] = {{"first", "bits"}, {"others", "bits"}};
constexpr Filled kSignal[] = {{"signal", "signal_bits"}, {"noise", "noise_bits"}};
constexpr Filled kGroups[] = {{"bits", "bits"}, {"group", "kivi_group_size"}};

constexpr Method kMethods[] = {
    {.name = "none", .codec = "f16", .values = "f16"},
    {.name = "fp16", .codec = "f16", .values = "f16"},
    {.name = "int8", .codec = "int8", .values = "int8"},
    {.name = "turboquant_mse", .codec = "turboquant_mse", .filled = kBits},
    // One of its bits is a sign, and the published package keeps at least one bit of code beside it.
    {.name = "turboquant_prod", .codec = "turboquant_prod", .filled = kProd, .least_bits = "2"},
    {.name = "turboquant_rvq", .codec = "turboquant_rvq", .filled = kBits, .further = "num_residuals"},
    {.name = "ratequant", .codec = "turboquant_rvq", .filled = kBits, .further = "num_residuals"},
    {.name = "qjl", .codec = "qjl", .filled = kSketch, .further = "jl_dim"},
    // As published: the same bits for the angles of all levels. An angle has at least 2.
    {.name = "polar", .codec = "polarquant", .filled = kAngles, .least_bits = "2"},
    {.name = "polarquant", .codec = "polarquant", .filled = kAngles, .least_bits = "2"},
    {.name = "rabitq", .codec = "rabitq", .filled = kBits},
    {.name = "vecinfer",
     .codec = "vecinfer",
     .values = "vecinfer",
     .filled = kBits,
     .further = "num_subspaces",
     .least_bits = "2"},
    {.name = "spectral", .codec = "spectral", .filled = kSignal},
    {.name = "commvq", .codec = "commvq", .filled = kBits},
    {.name = "comm_vq", .codec = "commvq", .filled = kBits},
    // One bit between minimum and maximum is worse than zeros.
    {.name = "kivi", .codec = "kivi", .filled = kGroups, .own_values = true, .least_bits = "2"},
};

Error Invalid(const std::string& message) { return Error{ErrorCode::kInvalidArgument, "plan text: " + message}; }
Error Unsupported(const std::string& message) { return Error{ErrorCode::kUnsupported, "plan text: " + message}; }

template <typename Items>
std::string Names(const Items& items) {
  std::string names;
  for (const auto& item : items) names += (names.empty() ? "" : ", ") + std::string(item.name);
  return names;
}

/// Knobs as given; those at their published defaults count as not given.
class Given {
 public:
  static Result<Given> Read(std::string_view text) {
    Given given;
    std::map<std::string_view, bool> seen;
    while (!text.empty()) {
      const std::string_view part = text.substr(0, text.find(','));
      text.remove_prefix(std::min(part.size() + 1, text.size()));
      const std::size_t sign = std::min(part.find('='), part.size());
      const std::string_view name = part.substr(0, sign);
      const auto* knob = std::ranges::find(kKnobs, name, &Knob::name);
      if (knob == std::end(kKnobs)) return Invalid("unknown knob \"" + std::string(name) + "\" (known: " + Names(kKnobs) + ")");
      if (sign == part.size()) return Invalid(std::string(name) + " has no value");
      if (!seen.emplace(name, true).second) return Invalid(std::string(name) + " is given twice");
      const std::string_view value = part.substr(sign + 1);
      const std::string shown = std::string(name) + "=" + std::string(value);
      if (IsDefault(*knob, value)) continue;
      if (!knob->nowhere.empty()) return Unsupported(shown + ": " + std::string(knob->nowhere));
      std::uint32_t number = 0;
      const auto [end, status] = std::from_chars(value.data(), value.data() + value.size(), number);
      if (status != std::errc() || end != value.data() + value.size()) return Invalid(shown + " is no number");
      given.numbers_.emplace(name, number);
    }
    return given;
  }

  [[nodiscard]] std::optional<std::uint32_t> Number(std::string_view knob) const {
    const auto at = numbers_.find(knob);
    return at == numbers_.end() ? std::nullopt : std::optional(at->second);
  }
  [[nodiscard]] const std::map<std::string_view, std::uint32_t>& numbers() const noexcept { return numbers_; }

 private:
  static bool IsDefault(const Knob& knob, std::string_view value) {
    const bool python =
        knob.fallback == "none" ? value == "None" : knob.fallback == "true" && (value == "True" || value == "1");
    return python || value == knob.fallback;
  }

  std::map<std::string_view, std::uint32_t> numbers_;
};

std::string Shown(std::string_view knob, std::uint32_t number) { return std::string(knob) + "=" + std::to_string(number); }

Result<void> CheckMeaning(const Method& method, const Given& given, std::uint32_t head_dim) {
  for (const auto& [knob, number] : given.numbers()) {
    const bool of_all = knob == "value_bits" || knob == "n_outlier_channels" || knob == "outlier_bits";
    const bool filled = std::ranges::find(method.filled, knob, &Filled::knob) != method.filled.end();
    if (!of_all && !filled && knob != method.further) {
      return Invalid(Shown(knob, number) + " means nothing for method " + std::string(method.name));
    }
  }
  if (const auto stages = given.Number("num_residuals")) {
    return Unsupported(Shown("num_residuals", *stages) + ": residual codes have two stages");
  }
  if (const auto parts = given.Number("num_subspaces"); parts && std::uint64_t{*parts} * kSubspace != head_dim) {
    return Unsupported(Shown("num_subspaces", *parts) + ": " + std::to_string(head_dim) + " numbers have " +
                       std::to_string(head_dim / kSubspace) + " parts of four");
  }
  if (const auto bits = given.Number("outlier_bits"); bits && !given.Number("n_outlier_channels")) {
    return Invalid(Shown("outlier_bits", *bits) + " means nothing without n_outlier_channels");
  }
  return {};
}

/// The codec of so many bits, for values and for outlier channels.
Result<std::string> CodecOfBits(std::string_view knob, std::uint32_t bits) {
  if (bits >= 1 && bits <= 7) return "turboquant_mse:bits=" + std::to_string(bits);
  if (bits == 8) return std::string("int8");
  if (bits == 16) return std::string("f16");
  return Invalid(Shown(knob, bits) + " is not one of 1, 2, 3, 4, 5, 6, 7, 8, 16");
}

/// The method's codec with its parameters, `bits` standing for the knob of that name where it is given.
std::string Filling(const Method& method, const Given& given, std::optional<std::uint32_t> bits) {
  std::string spec(method.codec);
  std::string_view before = ":";
  for (const auto& [parameter, knob] : method.filled) {
    const auto* known = std::ranges::find(kKnobs, knob, &Knob::name);
    std::optional<std::uint32_t> number = knob == "bits" ? bits : given.Number(knob);
    if (knob == "sketch_dim" && given.Number("jl_dim")) number = given.Number("jl_dim");  // another name of it
    const std::string_view fallback = knob == "bits" ? method.least_bits : known->fallback;
    if (!number && fallback == "none") continue;
    spec += std::string(before) + std::string(parameter) + "=" + (number ? std::to_string(*number) : std::string(fallback));
    before = ",";
  }
  return spec;
}

Result<std::string> Keys(const Method& method, const Given& given) {
  std::string spec = Filling(method, given, given.Number("bits"));
  const auto channels = given.Number("n_outlier_channels");
  if (!channels) return spec;
  auto hot = CodecOfBits("outlier_bits", given.Number("outlier_bits").value_or(8));
  if (!hot) return hot;
  return "outlier:channels=" + std::to_string(*channels) + ",hot=(" + *hot + "),rest=(" + spec + ")";
}

Result<std::string> Values(const Method& method, const Given& given) {
  const auto bits = given.Number("value_bits");
  if (!method.values.empty() && !bits) return std::string(method.values);
  if (method.own_values && bits.value_or(2) <= 8) return Filling(method, given, bits.value_or(2));
  return CodecOfBits("value_bits", bits.value_or(2));
}

}  // namespace

bool SaysMethod(std::string_view text) noexcept { return text.starts_with(kStart); }

Result<std::string> MethodSpec(std::string_view text, Side side, std::uint32_t head_dim) {
  text.remove_prefix(kStart.size());
  const std::string_view name = text.substr(0, text.find(','));
  text.remove_prefix(std::min(name.size() + 1, text.size()));
  const auto* method = std::ranges::find(kMethods, name, &Method::name);
  if (method == std::end(kMethods)) {
    return Invalid("unknown method \"" + std::string(name) + "\" (known: " + Names(kMethods) + ")");
  }
  if (text.ends_with(',')) return Invalid("nothing follows the last comma of \"" + std::string(text) + "\"");
  const auto given = Given::Read(text);
  if (!given) return given.error();
  if (auto meant = CheckMeaning(*method, *given, head_dim); !meant) return meant.error();
  return side == Side::kKeys ? Keys(*method, *given) : Values(*method, *given);
}

}  // namespace kvant::quantizers
