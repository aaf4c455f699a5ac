// kvantctl codecs: what this build can store keys and values with. Needs no daemon. Sizes are those of real encoded blocks, at
// one head size, with all side information.
#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "quantizers/presets.h"
#include "quantizers/registry.h"
#include "tools/codec_specs.h"
#include "tools/kvantctl/codec_figures.h"
#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"

namespace kvant::tools {
namespace {

using quantizers::Codec;
using quantizers::ParamSpec;
using quantizers::Side;

struct Variant {
  std::string spec;
  std::optional<CodecFigures> keys;  ///< empty where that side is not offered at this shape
  std::optional<CodecFigures> values;
};

std::vector<Variant> Variants(const quantizers::Registry& registry, const Codec& codec, const CodecShape& shape) {
  std::vector<Variant> variants;
  for (const std::string& spec : CodecSpecs(codec)) {
    variants.push_back({spec, FiguresOf(registry, spec, Side::kKeys, shape), FiguresOf(registry, spec, Side::kValues, shape)});
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

using Figures = std::optional<CodecFigures>;

std::string Bits(const Figures& side) { return side ? Number("%.3f", side->bits_per_element) : "-"; }
std::string RowBytes(const Figures& side) { return side ? Number("%g", side->bytes_per_row) : "-"; }
std::string Deviation(const std::optional<double>& error) { return error ? Number("%.3g", *error) : "-"; }
std::string Declared(const Figures& side) { return side ? Deviation(side->expected_error) : "-"; }

/// What one must have before the codec can be used.
std::string Needs(const Variant& v) {
  std::string text;
  for (const Figures* side : {&v.keys, &v.values}) {
    if (*side && (*side)->calibrated) text = "calibration";
  }
  if (v.keys && v.keys->pre_rope) text += std::string(text.empty() ? "" : ", ") + "keys before RoPE";
  return text.empty() ? "-" : text;
}

/// Whether a row becomes a code as it comes, or when its block is full.
std::string Rows(const Variant& v) {
  const bool keys = !v.keys || v.keys->rows_alone, values = !v.values || v.values->rows_alone;
  return keys && values ? "each alone" : values && v.values ? "keys by block" : "by block";
}

std::string Text(const quantizers::Registry& registry, const CodecShape& shape) {
  std::string text = "At head size " + std::to_string(shape.head_dim) + ", " + std::to_string(shape.block_tokens) +
                     " tokens per block; BITS per number and BYTES per row hold all side information.\n"
                     "ERROR is the declared expectation of |x - x'|^2 / |x - mean|^2 for normal rows. Blocks of every codec "
                     "are pure functions "
                     "of their rows: any process may share them.\n\n";
  Table plans({{"PRESET"}, {"KEYS"}, {"VALUES"}, {"WHAT"}});
  for (const quantizers::Preset& preset : quantizers::Presets()) {
    const auto shown = [](std::string_view spec) { return spec.empty() ? std::string("as computed") : std::string(spec); };
    plans.Add({std::string(preset.name), shown(preset.keys), shown(preset.values), std::string(preset.summary)});
  }
  Table codecs({{"CODEC"}, {"VERSION", Align::kRight}, {"SIDES"}, {"WHAT"}});
  Table sizes({{"SPEC"},
               {"KEYS BITS", Align::kRight},
               {"BYTES", Align::kRight},
               {"ERROR", Align::kRight},
               {"VALUES BITS", Align::kRight},
               {"BYTES", Align::kRight},
               {"ERROR", Align::kRight},
               {"NEEDS"},
               {"ROWS"}});
  Table speeds({{"SPEC"},
                {"KEYS: ENCODE", Align::kRight},
                {"SCORE", Align::kRight},
                {"SCORE ERROR", Align::kRight},
                {"UNDER A BIAS", Align::kRight},
                {"VALUES: ENCODE", Align::kRight},
                {"SUM", Align::kRight}});
  Table params({{"PARAMETER"}, {"ALLOWED"}, {"DEFAULT", Align::kRight}, {"MEANING"}});
  for (const Codec* codec : registry.codecs()) {
    codecs.Add({std::string(codec->name), std::to_string(codec->version), Sides(*codec), std::string(codec->summary)});
    for (const Variant& v : Variants(registry, *codec, shape)) {
      sizes.Add({v.spec, Bits(v.keys), RowBytes(v.keys), Declared(v.keys), Bits(v.values), RowBytes(v.values),
                 Declared(v.values), Needs(v), Rows(v)});
      if (!shape.measure) continue;
      const auto time = [](const Figures& side, double CodecMeasurement::*what) {
        return side && side->measured ? Number("%.1f ns", (*side->measured).*what) : "-";
      };
      const auto error = [](const Figures& side, double CodecMeasurement::*what) {
        return side && side->measured ? Number("%.3g", (*side->measured).*what) : "-";
      };
      speeds.Add({v.spec, time(v.keys, &CodecMeasurement::encode_ns), time(v.keys, &CodecMeasurement::attend_ns),
                  error(v.keys, &CodecMeasurement::score_error), error(v.keys, &CodecMeasurement::biased_score_error),
                  time(v.values, &CodecMeasurement::encode_ns), time(v.values, &CodecMeasurement::attend_ns)});
    }
    for (const ParamSpec& param : codec->params) {
      params.Add({std::string(codec->name) + ":" + std::string(param.name), Allowed(param), std::string(param.default_value),
                  std::string(param.meaning)});
    }
  }
  text += plans.ToString() + "\n" + codecs.ToString() + "\n" + sizes.ToString();
  if (shape.measure) {
    text +=
        "\nMeasured with one thread and blocks in caches: encoding per row; scores and weighted sums per token, for 4 queries. "
        "The error "
        "of a score is relative to |query|^2 |key - mean|^2 / head size, for normal rows, and for the same under a common part "
        "of norm 605 "
        "(as some models' biases give it).\n" +
        speeds.ToString();
  }
  return text + "\n" + params.ToString();
}

Json SideJson(const Figures& side) {
  if (!side) return nullptr;
  Json figures = {{"bits_per_element", side->bits_per_element},
                  {"bytes_per_row", side->bytes_per_row},
                  {"expected_error", nullptr},
                  {"calibrated", side->calibrated},
                  {"pre_rope", side->pre_rope},
                  {"rows_alone", side->rows_alone},
                  {"form", ToJson(side->form)}};
  if (side->expected_error) figures["expected_error"] = *side->expected_error;
  if (side->measured) {
    figures["measured"] = {{"encode_ns", side->measured->encode_ns},
                           {"attend_ns", side->measured->attend_ns},
                           {"score_error", side->measured->score_error},
                           {"biased_score_error", side->measured->biased_score_error}};
  }
  return figures;
}

Json CodecsJson(const quantizers::Registry& registry, const CodecShape& shape) {
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
  Json presets = Json::array();
  for (const quantizers::Preset& preset : quantizers::Presets()) {
    presets.push_back({{"name", preset.name}, {"keys", preset.keys}, {"values", preset.values}, {"summary", preset.summary}});
  }
  return {{"head_dim", shape.head_dim}, {"block_tokens", shape.block_tokens}, {"presets", presets}, {"codecs", list}};
}

int Codecs(const Globals& globals, const CodecShape& shape) {
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
  auto shape = std::make_shared<CodecShape>();
  command->add_option("--head-dim", shape->head_dim, "Head size the sizes are given for: a multiple of 8")
      ->check(CLI::Range(8U, 1024U))
      ->check([](const std::string& text) { return std::stoul(text) % 8 == 0 ? "" : "not a multiple of 8"; })
      ->capture_default_str();
  command->add_flag("--measure", shape->measure,
                    "Also measure speed, and the error of scores with and without a common part of the keys");
  command->callback([&invocation, shape] { invocation.exit_code = Codecs(invocation.globals, *shape); });
}

}  // namespace kvant::tools
