// kvantctl codecs: what this build can store keys and values with. Needs no daemon. Sizes are those of real encoded blocks, at
// one head size, with all side information.
#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quantizers/registry.h"
#include "tools/codec_specs.h"
#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

using quantizers::Codec;
using quantizers::ParamSpec;
using quantizers::Side;

struct Shape {
  std::uint32_t head_dim = 128;
  std::uint32_t block_tokens = 128;
};

/// One side of one codec spec; empty where that side is not offered or needs an artifact.
struct SideFigures {
  double bits_per_element = 0.0;
  std::optional<double> expected_error;
  CodecForm form;
};

struct Variant {
  std::string spec;
  std::optional<SideFigures> keys;
  std::optional<SideFigures> values;
};

/// What the bytes of an encoded block are (quantizers/code_form.h).
CodecForm FormOf(const quantizers::BlockCodec& codec) {
  const quantizers::CodeForm form = codec.form();
  CodecForm shown{.family = std::string(CodeFamilyName(form.family)),
                  .order = std::string(CodeOrderName(form.order)),
                  .bits = form.bits,
                  .magnitudes = {},
                  .first_level = form.first_level,
                  .level_unit = form.level_unit,
                  .scale_format = std::string(ScaleFormatName(form.scale_format)),
                  .scale_offset = form.scale_offset,
                  .rotated = form.rotated,
                  .centered = form.centered,
                  .part_bytes = {}};
  if (form.magnitudes != nullptr) shown.magnitudes.assign(form.magnitudes, form.magnitudes + (1U << (form.bits - 1U)));
  for (std::size_t p = 0; p < codec.parts(); ++p) shown.part_bytes.push_back(codec.part_bytes(p));
  return shown;
}

/// Nothing where no codec can be made of it.
std::optional<SideFigures> Measure(const quantizers::Registry& registry, const std::string& spec, Side side,
                                   const Shape& shape) {
  const auto codec = MakeCodec(registry, spec, side, shape.head_dim, shape.block_tokens);
  if (!codec) return std::nullopt;
  SideFigures figures;
  figures.bits_per_element =
      8.0 * static_cast<double>((*codec)->block_bytes()) / (static_cast<double>(shape.head_dim) * shape.block_tokens);
  figures.expected_error = (*codec)->expected_error((*codec)->parts());
  figures.form = FormOf(**codec);
  return figures;
}

std::vector<Variant> Variants(const quantizers::Registry& registry, const Codec& codec, const Shape& shape) {
  std::vector<Variant> variants;
  for (const std::string& spec : CodecSpecs(codec)) {
    variants.push_back({spec, Measure(registry, spec, Side::kKeys, shape), Measure(registry, spec, Side::kValues, shape)});
  }
  return variants;
}

std::string Sides(const Codec& codec) {
  if (codec.make_keys != nullptr && codec.make_values != nullptr) return "keys, values";
  return codec.make_keys != nullptr ? "keys" : "values";
}

std::string Number(const char* format, double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), format, value);
  return text.data();
}

std::string Allowed(const ParamSpec& param) {
  if (param.kind == quantizers::ParamKind::kSpec) return "(SPEC)";
  if (param.kind == quantizers::ParamKind::kChoice || !param.allowed.empty()) {
    std::string text;
    for (const std::int64_t value : param.allowed) text += (text.empty() ? "" : " ") + std::to_string(value);
    for (const std::string_view choice : param.choices) text += (text.empty() ? "" : " ") + std::string(choice);
    return text;
  }
  return Number("%g", param.min) + ".." + Number("%g", param.max);
}

std::string Bits(const std::optional<SideFigures>& side) { return side ? Number("%.3f", side->bits_per_element) : "-"; }
std::string Ratio(const std::optional<SideFigures>& side) {
  return side ? Number("%.2fx", 16.0 / side->bits_per_element) : "-";
}
std::string Deviation(const std::optional<SideFigures>& side) {
  return side && side->expected_error ? Number("%.3g", *side->expected_error) : "-";
}

std::string Text(const quantizers::Registry& registry, const Shape& shape) {
  std::string text = "Bits per element with all side information at head size " + std::to_string(shape.head_dim) + ", " +
                     std::to_string(shape.block_tokens) +
                     " tokens per block.\nERROR is the declared expectation of |x - x'|^2 / |x|^2 for normal rows.\n\n";
  Table sizes({{"SPEC"},
               {"KEY BITS", Align::kRight},
               {"VS F16", Align::kRight},
               {"ERROR", Align::kRight},
               {"VALUE BITS", Align::kRight},
               {"VS F16", Align::kRight},
               {"ERROR", Align::kRight}});
  Table codecs({{"CODEC"}, {"VERSION", Align::kRight}, {"SIDES"}, {"WHAT"}});
  Table params({{"PARAMETER"}, {"ALLOWED"}, {"DEFAULT", Align::kRight}, {"MEANING"}});
  bool any_params = false;
  for (const Codec* codec : registry.codecs()) {
    codecs.Add({std::string(codec->name), std::to_string(codec->version), Sides(*codec), std::string(codec->summary)});
    for (const Variant& v : Variants(registry, *codec, shape)) {
      sizes.Add({v.spec, Bits(v.keys), Ratio(v.keys), Deviation(v.keys), Bits(v.values), Ratio(v.values), Deviation(v.values)});
    }
    for (const ParamSpec& param : codec->params) {
      any_params = true;
      params.Add({std::string(codec->name) + ":" + std::string(param.name), Allowed(param), std::string(param.default_value),
                  std::string(param.meaning)});
    }
  }
  text += codecs.ToString() + "\n" + sizes.ToString();
  if (any_params) text += "\n" + params.ToString();
  return text;
}

Json SideJson(const std::optional<SideFigures>& side) {
  if (!side) return nullptr;
  Json figures = {{"bits_per_element", side->bits_per_element}, {"expected_error", nullptr}, {"form", ToJson(side->form)}};
  if (side->expected_error) figures["expected_error"] = *side->expected_error;
  return figures;
}

Json CodecsJson(const quantizers::Registry& registry, const Shape& shape) {
  Json list = Json::array();
  for (const Codec* codec : registry.codecs()) {
    Json params = Json::array();
    for (const ParamSpec& param : codec->params) {
      params.push_back({{"name", param.name},
                        {"min", param.min},
                        {"max", param.max},
                        {"allowed", std::vector<std::int64_t>(param.allowed.begin(), param.allowed.end())},
                        {"choices", param.choices},
                        {"default", param.default_value},
                        {"meaning", param.meaning}});
    }
    Json variants = Json::array();
    for (const Variant& v : Variants(registry, *codec, shape)) {
      variants.push_back({{"spec", v.spec}, {"keys", SideJson(v.keys)}, {"values", SideJson(v.values)}});
    }
    list.push_back({{"name", codec->name},
                    {"version", codec->version},
                    {"summary", codec->summary},
                    {"keys", codec->make_keys != nullptr},
                    {"values", codec->make_values != nullptr},
                    {"parameters", params},
                    {"variants", variants}});
  }
  return {{"head_dim", shape.head_dim}, {"block_tokens", shape.block_tokens}, {"codecs", list}};
}

int Codecs(const Globals& globals, const Shape& shape) {
  const quantizers::Registry registry = quantizers::Registry::Builtin();
  if (globals.format == Format::kJson) {
    Print(CodecsJson(registry, shape));
  } else {
    Print(Text(registry, shape));
  }
  return kOk;
}

}  // namespace

void AddCodecs(CLI::App& app, Invocation& invocation) {
  CLI::App* command =
      app.add_subcommand("codecs", "List this build's codecs, their parameters, sizes and errors (needs no daemon)");
  auto shape = std::make_shared<Shape>();
  command->add_option("--head-dim", shape->head_dim, "Head size the sizes are given for: a multiple of 8")
      ->check(CLI::Range(8U, 1024U))
      ->check([](const std::string& text) { return std::stoul(text) % 8 == 0 ? "" : "not a multiple of 8"; })
      ->capture_default_str();
  command->callback([&invocation, shape] { invocation.exit_code = Codecs(invocation.globals, *shape); });
}

}  // namespace kvant::tools
