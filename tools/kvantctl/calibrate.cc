// kvantctl calibrate: what calibrated codecs want to know and bits for each layer and KV head, from dumped rows of a model; and
// what an artifact holds. Needs no daemon.
#include <unistd.h>
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "quantizers/bounded_json.h"
#include "quantizers/safetensors.h"
#include "tools/kvantctl/calibration/choices.h"
#include "tools/kvantctl/calibration/layer_tensors.h"
#include "tools/kvantctl/command.h"
#include "tools/kvantctl/printable.h"
#include "tools/kvantctl/render.h"
#include "tools/kvantctl/rows/rows_file.h"

namespace kvant::tools {
namespace {

using quantizers::Safetensors;
using quantizers::StoredTensor;
using quantizers::TensorToWrite;

constexpr std::size_t kFewestTokens = 256;

constexpr std::size_t kDimMultiple = 8;
constexpr std::size_t kPositions = 32;  // whose queries losses are measured with

struct Options {
  std::string rows;
  std::string artifact_out;
  std::string show;
  CalibrationOptions calibration;
  bool losses = false;
  std::string plan_out;
  double target_bits = 3.5;
  std::vector<std::string> candidates = {"turboquant_tcq:bits=1", "turboquant_tcq:bits=2", "turboquant_tcq:bits=3",
                                         "turboquant_tcq:bits=4", "int8"};
};

Result<std::vector<std::byte>> ImageOf(const RowsFile& file, const Options& options,
                                       const std::vector<CalibratedTensor>& tensors) {
  std::vector<TensorToWrite> list;
  for (const CalibratedTensor& tensor : tensors) {
    if (tensor.type == quantizers::TensorType::kF32) {
      for (std::size_t at = 0; at < tensor.bytes.size(); at += sizeof(float)) {
        float number;
        std::memcpy(&number, tensor.bytes.data() + at, sizeof(number));
        if (std::isfinite(number)) continue;
        return Error{ErrorCode::kNotFinite, options.rows + ": " + tensor.name + " is not finite; there are too few rows"};
      }
    }
    list.push_back({tensor.name, tensor.type, tensor.shape, tensor.bytes});
  }
  Json about = {{"artifact_version", 1},
                {"tokens", file.shape().tokens},
                {"window", file.shape().window},
                {"map_bits", options.calibration.map_bits}};
  if (!file.model().empty()) about["model"] = file.model();
  return quantizers::WriteSafetensors(list, {{"kvant", about.dump()}});
}

Result<void> WriteFile(const std::string& path, std::span<const std::byte> bytes) {
  errno = 0;
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  file.close();
  if (!file) return Error{ErrorCode::kInternal, "write " + path + ": " + std::generic_category().message(errno)};
  return {};
}

/// "measure: layer 3 of 30" on standard error, where a person looks at it.
class LayerCount {
 public:
  LayerCount(std::string what, std::size_t total) : what_(std::move(what)), total_(total), shown_(isatty(STDERR_FILENO) == 1) {}
  ~LayerCount() {
    if (shown_) std::fputs("\r\033[K", stderr);
  }
  LayerCount(const LayerCount&) = delete;
  LayerCount& operator=(const LayerCount&) = delete;
  void Step() {
    if (shown_) std::fprintf(stderr, "\r%s: layer %zu of %zu", what_.c_str(), ++done_, total_);
  }

 private:
  std::string what_;
  std::size_t total_;
  std::size_t done_ = 0;
  bool shown_;
};

Result<void> CheckRows(const RowsFile& file, const Options& options) {
  const RowsShape& shape = file.shape();
  if (MiddleContext(shape).tokens < kFewestTokens) {
    return Error{ErrorCode::kOutOfRange, options.rows + ": contexts of " + std::to_string(MiddleContext(shape).tokens) +
                                             " tokens, at least 256 tokens are wanted"};
  }
  if (shape.head_dim == 0 || shape.head_dim % kDimMultiple != 0) {
    return Error{ErrorCode::kUnsupported,
                 options.rows + ": head_dim " + std::to_string(shape.head_dim) + " is not a multiple of 8, as stores want it"};
  }
  if (options.calibration.commvq_bits != 0 && (file.rope() == nullptr || file.rope()->radians_per_token.empty())) {
    return Error{ErrorCode::kUnsupported, options.rows +
                                              ": --commvq-bits wants keys before RoPE, and the file does not say "
                                              "how keys were turned"};
  }
  return {};
}

Result<std::vector<CalibratedTensor>> TensorsOf(const RowsFile& file, const Options& options) {
  std::vector<CalibratedTensor> tensors;
  LayerCount progress("calibrate", file.shape().layers);
  for (std::size_t layer = 0; layer < file.shape().layers; ++layer) {
    const auto rows = file.Read(layer);
    if (!rows) return rows.error();
    const auto projection = file.Projection(layer);
    if (!projection) return projection.error();
    for (CalibratedTensor& tensor : CalibrateLayer(layer, file.shape(), *rows, file.rope(), *projection, options.calibration)) {
      tensors.push_back(std::move(tensor));
    }
    progress.Step();
  }
  return tensors;
}

/// As `kvant calibrate --plan-out` writes it and --plans @FILE reads it.
Json PlanJson(const CodecPlan& plan) {
  Json overrides = Json::array();
  for (const LayerPlan& each : plan.overrides) {
    overrides.push_back({{"first_layer", each.first_layer},
                         {"last_layer", each.last_layer},
                         {"keys", each.keys},
                         {"values", each.values},
                         {"first_head", each.first_head},
                         {"last_head", each.last_head}});
  }
  return {{"keys", plan.keys}, {"values", plan.values}, {"overrides", std::move(overrides)}};
}

/// A line per layer: the numbers of the codecs of keys and values of each KV head.
std::string AllocationText(const Choices& choices, const Chosen& chosen) {
  std::string text = "\n";
  for (std::size_t c = 0; c < choices.codecs.size(); ++c) text += "  " + std::to_string(c) + ": " + choices.codecs[c] + "\n";
  Table table({{"LAYER", Align::kRight}, {"KEYS OF EACH KV HEAD"}, {"VALUES"}});
  for (std::size_t layer = 0; layer < choices.layers; ++layer) {
    std::array<std::string, kSides> cells;
    for (std::size_t side = 0; side < kSides; ++side) {
      for (std::size_t head = 0; head < choices.kv_heads; ++head) {
        cells[side] += (head == 0 ? "" : " ") + std::to_string(chosen[side][layer * choices.kv_heads + head]);
      }
    }
    table.Add({std::to_string(layer), cells[0], cells[1]});
  }
  return text + table.ToString();
}

int CalibrateRows(const Globals& globals, const Options& options) {
  const auto file = RowsFile::Open(options.rows);
  if (!file) return Report(globals, file.error());
  if (const auto ok = CheckRows(*file, options); !ok) return Report(globals, ok.error());
  auto tensors = TensorsOf(*file, options);
  if (!tensors) return Report(globals, tensors.error());
  auto image = ImageOf(*file, options, *tensors);
  if (!image) return Report(globals, image.error());
  Json allocation;
  std::string text;
  if (options.losses || !options.plan_out.empty()) {
    LayerCount progress("measure", file->shape().layers * options.candidates.size());
    const auto choices = MeasureChoices(*file, options.candidates, *image, kPositions, [&progress] { progress.Step(); });
    if (!choices) return Report(globals, choices.error());
    for (CalibratedTensor& tensor : TensorsOf(*choices)) tensors->push_back(std::move(tensor));
    image = ImageOf(*file, options, *tensors);
    if (!image) return Report(globals, image.error());
    if (!options.plan_out.empty()) {
      const auto chosen = Fill(*choices, options.target_bits);
      if (!chosen) return Report(globals, chosen.error());
      const std::string plan = PlanJson(PlanOf(*choices, *chosen)).dump(1) + "\n";
      if (const auto ok = WriteFile(options.plan_out, std::as_bytes(std::span(plan))); !ok) return Report(globals, ok.error());
      const auto [keys, values] = MeanBits(*choices, *chosen);
      allocation = {{"file", options.plan_out},      {"key_bits_per_element", keys}, {"value_bits_per_element", values},
                    {"candidates", choices->codecs}, {"keys", (*chosen)[0]},         {"values", (*chosen)[1]}};
      std::array<char, 96> line{};
      std::snprintf(line.data(), line.size(), ": %.3f bits per number of the keys, %.3f of the values\n", keys, values);
      text = options.plan_out + line.data() + AllocationText(*choices, *chosen);
    }
  }
  if (const auto ok = WriteFile(options.artifact_out, *image); !ok) return Report(globals, ok.error());
  if (globals.format == Format::kJson) {
    Json result = {{"artifact", options.artifact_out}, {"tokens", file->shape().tokens}, {"tensors", tensors->size()}};
    if (!allocation.is_null()) result["plan"] = std::move(allocation);
    Print(result);
    return kOk;
  }
  Print(options.artifact_out + ": " + std::to_string(tensors->size()) + " tensors, measured on " +
        HumanCount(file->shape().tokens) + " tokens\n" +
        (file->rope() == nullptr ? "The file does not say how RoPE turned its rows: no keys.bias and no keys.pair_gains.\n"
                                 : "") +
        text);
  return kOk;
}

/// All tensors of one name but for the layer.
struct Kind {
  std::size_t layers = 0;
  std::vector<std::size_t> shape;
  float least = std::numeric_limits<float>::infinity();
  float most = -std::numeric_limits<float>::infinity();
};

/// "layers.3.keys.mean" as "keys.mean".
std::string WithoutLayer(const std::string& name) {
  const std::size_t layer = name.find('.');
  const std::size_t rest = layer == std::string::npos ? layer : name.find('.', layer + 1);
  return rest == std::string::npos ? name : name.substr(rest + 1);
}

int Show(const Globals& globals, const std::string& path) {
  const auto image = ReadBytes(path);
  if (!image) return Report(globals, image.error());
  const auto tensors = Safetensors::Read(*image, path);
  if (!tensors) return Report(globals, tensors.error());
  const auto made = tensors->metadata().find("kvant");
  // Null if another program made it.
  const auto parsed = quantizers::ParseJson(made != tensors->metadata().end() ? made->second : "null", {}, path);
  const nlohmann::json about = parsed ? *parsed : nlohmann::json();
  std::map<std::string, Kind> kinds;
  for (const auto& [name, tensor] : tensors->tensors()) {
    Kind& kind = kinds[WithoutLayer(name)];
    ++kind.layers;
    kind.shape = tensor.shape;
    std::vector<float> numbers(tensor.elements);
    if (!quantizers::WidenTensor(tensor, numbers) || numbers.empty()) continue;
    kind.least = std::min(kind.least, *std::ranges::min_element(numbers));
    kind.most = std::max(kind.most, *std::ranges::max_element(numbers));
  }
  if (globals.format == Format::kJson) {
    Json list = Json::object();
    for (const auto& [name, kind] : kinds) {
      list[name] = {{"layers", kind.layers}, {"shape", kind.shape}, {"least", kind.least}, {"most", kind.most}};
    }
    Print(Json{{"artifact", path}, {"about", about.is_object() ? Json(about) : Json()}, {"tensors", std::move(list)}});
    return kOk;
  }
  Table table({{"TENSOR"}, {"LAYERS", Align::kRight}, {"SHAPE"}, {"LEAST", Align::kRight}, {"MOST", Align::kRight}});
  for (const auto& [name, kind] : kinds) {
    std::array<char, 32> least{}, most{};
    std::snprintf(least.data(), least.size(), "%.5g", static_cast<double>(kind.least));
    std::snprintf(most.data(), most.size(), "%.5g", static_cast<double>(kind.most));
    table.Add({name, std::to_string(kind.layers), quantizers::ShapeText(kind.shape), least.data(), most.data()});
  }
  std::string text = path + ":";
  if (!about.is_object()) text += " made by another program";
  if (about.is_object()) {
    for (const auto& [name, value] : about.items()) {
      text += " " + name + " " + (value.is_string() ? value.get<std::string>() : quantizers::ShownJson(value));
    }
  }
  Print(Printable(text) + "\n" + table.ToString());
  return kOk;
}

}  // namespace

void AddCalibrate(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand("calibrate",
                                         "What calibrated codecs want to know, and bits for each layer and KV head, from "
                                         "dumped rows of a model (needs no daemon)");
  auto options = std::make_shared<Options>();
  CLI::Option* show = command->add_option("--show", options->show, "Print what an artifact holds");
  CLI::Option* rows = command->add_option("--rows", options->rows, "Queries, keys and values as `kvant rows` writes them");
  CLI::Option* out = command->add_option("--artifact-out", options->artifact_out, "The artifact to write, a safetensors file");
  rows->needs(out)->excludes(show);
  out->needs(rows);
  command
      ->add_option("--map-bits", options->calibration.map_bits, "Bits per number that the directions of spectral codes share")
      ->check(CLI::Range(0.0, 8.0))
      ->capture_default_str()
      ->needs(rows);
  command
      ->add_option("--commvq-bits", options->calibration.commvq_bits,
                   "Also train codewords for commvq at so many bits; some 10000 tokens are wanted, and minutes for each layer")
      ->check(CLI::IsMember({1, 2}))
      ->needs(rows);
  command
      ->add_flag("--losses", options->losses,
                 "Also measure what each of --candidates loses in every layer, KV head and side: the artifact then serves "
                 "target_bits of any size")
      ->needs(rows);
  command->add_option("--plan-out", options->plan_out, "Allocate codecs by these losses: the plan, a json file")->needs(rows);
  command->add_option("--target-bits", options->target_bits, "Its bits per number on average, side information included")
      ->check(CLI::Range(0.0, 32.0))
      ->capture_default_str()
      ->needs("--plan-out");
  command->add_option("--candidates", options->candidates, "Its codecs")->capture_default_str()->needs(rows);
  command->callback([&invocation, options, show, rows] {
    if (show->count() + rows->count() == 0) throw CLI::RequiredError("--rows or --show");
    invocation.exit_code =
        options->show.empty() ? CalibrateRows(invocation.globals, *options) : Show(invocation.globals, options->show);
  });
}

}  // namespace kvant::tools
