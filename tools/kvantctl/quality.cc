// kvantctl quality: what plans do to attention on dumped rows of a model. Needs no daemon.
#include <CLI/CLI.hpp>
#include <array>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "quantizers/plan.h"
#include "quantizers/registry.h"
#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"
#include "tools/kvantctl/rows/attention_loss.h"
#include "tools/kvantctl/rows/rows_file.h"
#include "tools/kvantctl/rows/rows_plan.h"

namespace kvant::tools {
namespace {

using quantizers::Plan;
using quantizers::Side;

struct Options {
  std::string rows;
  std::vector<std::string> plans = {"exact", "hq", "balanced", "small", "tiny"};
  std::string artifact;
  std::size_t positions = 64;
  bool layers = false;
};

/// A plan, what it takes, and what it loses in each layer.
struct Measured {
  std::string name;
  double key_bits = 0.0;
  double value_bits = 0.0;
  std::vector<LayerLoss> layers;
};

/// The figures of a layer, in the order in which they are shown.
struct Figure {
  const char* name;
  const char* title;
  const char* format;
  double LayerLoss::*value;
};
constexpr std::array kFigures = {
    Figure{"attention_kl", "KL", "%.3e", &LayerLoss::attention_kl},
    Figure{"logit_error", "LOGIT ERROR", "%.4f", &LayerLoss::logit_error},
    Figure{"output_error", "OUTPUT ERROR", "%.3e", &LayerLoss::output_error},
    Figure{"key_cosine", "KEY COSINE", "%.6f", &LayerLoss::key_cosine},
    Figure{"value_cosine", "VALUE COSINE", "%.6f", &LayerLoss::value_cosine},
};

std::string Number(const char* format, double value) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), format, value);
  return text.data();
}

double MeanOver(const std::vector<LayerLoss>& layers, double LayerLoss::*value) {
  double sum = 0;
  for (const LayerLoss& layer : layers) sum += layer.*value;
  return sum / static_cast<double>(layers.size());
}

Result<std::vector<Measured>> Measure(const Options& options) {
  auto file = RowsFile::Open(options.rows);
  if (!file) return std::move(file).error();
  const RowsShape& shape = file->shape();
  if (shape.window < shape.tokens) {
    return Error{ErrorCode::kUnsupported, options.rows + ": rows of " +
                                              std::to_string((shape.tokens + shape.window - 1) / shape.window) +
                                              " contexts; attention is tried over one"};
  }
  std::vector<std::byte> artifact;
  if (!options.artifact.empty()) {
    auto bytes = ReadBytes(options.artifact);
    if (!bytes) return std::move(bytes).error();
    artifact = *std::move(bytes);
  }
  const quantizers::Registry registry = quantizers::Registry::Builtin();
  std::vector<Measured> all;
  std::vector<std::unique_ptr<const Plan>> plans;
  for (const std::string& name : options.plans) {
    auto plan = PlanForRows(registry, shape, name, artifact);
    if (!plan) return Error{plan.error().code, options.rows + ": " + plan.error().message};
    all.push_back({name, (*plan)->bits_per_element(Side::kKeys), (*plan)->bits_per_element(Side::kValues), {}});
    plans.push_back(*std::move(plan));
  }
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    auto rows = file->Read(layer);
    if (!rows) return std::move(rows).error();
    for (std::size_t p = 0; p < plans.size(); ++p) {
      auto loss = MeasureLayer(*plans[p], layer, shape, *rows, options.positions);
      if (!loss)
        return Error{loss.error().code, all[p].name + ", layer " + std::to_string(layer) + ": " + loss.error().message};
      all[p].layers.push_back(*loss);
    }
  }
  return all;
}

Json QualityJson(const Options& options, const std::vector<Measured>& plans) {
  Json list = Json::array();
  for (const Measured& plan : plans) {
    Json entry = {{"plan", plan.name}, {"key_bits_per_element", plan.key_bits}, {"value_bits_per_element", plan.value_bits}};
    for (const Figure& figure : kFigures) entry[figure.name] = MeanOver(plan.layers, figure.value);
    Json layers = Json::array();
    for (const LayerLoss& layer : plan.layers) {
      Json figures = Json::object();
      for (const Figure& figure : kFigures) figures[figure.name] = layer.*figure.value;
      layers.push_back(std::move(figures));
    }
    entry["layers"] = std::move(layers);
    list.push_back(std::move(entry));
  }
  return {{"rows", options.rows}, {"positions", options.positions}, {"plans", std::move(list)}};
}

Table FiguresTable(const char* first, bool bits) {
  std::vector<Table::Column> columns{{first}};
  if (bits) {
    columns.push_back({"KEY BITS", Align::kRight});
    columns.push_back({"VALUE BITS", Align::kRight});
  }
  for (const Figure& figure : kFigures) columns.push_back({figure.title, Align::kRight});
  return Table(std::move(columns));
}

std::string Text(const Options& options, const std::vector<Measured>& plans) {
  Table means = FiguresTable("PLAN", true);
  for (const Measured& plan : plans) {
    std::vector<std::string> cells{plan.name, Number("%.3f", plan.key_bits), Number("%.3f", plan.value_bits)};
    for (const Figure& figure : kFigures) cells.push_back(Number(figure.format, MeanOver(plan.layers, figure.value)));
    means.Add(cells);
  }
  std::string text =
      "Means over layers; each layer sees exact rows, so that errors do not add up as they do in a model.\n"
      "KL in nats of a query's weights, logits with the softmax scale, output error |o - o'|^2 / |o|^2.\n\n" +
      means.ToString();
  if (!options.layers) return text;
  for (const Measured& plan : plans) {
    Table table = FiguresTable("LAYER", false);
    for (std::size_t layer = 0; layer < plan.layers.size(); ++layer) {
      std::vector<std::string> cells{std::to_string(layer)};
      for (const Figure& figure : kFigures) cells.push_back(Number(figure.format, plan.layers[layer].*figure.value));
      table.Add(cells);
    }
    text += "\n" + plan.name + "\n" + table.ToString();
  }
  return text;
}

int Quality(const Globals& globals, const Options& options) {
  const auto plans = Measure(options);
  if (!plans) return Report(globals, plans.error());
  if (globals.format == Format::kJson) {
    Print(QualityJson(options, *plans));
  } else {
    Print(Text(options, *plans));
  }
  return kOk;
}

}  // namespace

void AddQuality(CLI::App& app, Invocation& invocation) {
  CLI::App* command =
      app.add_subcommand("quality", "Measure what plans do to attention, on dumped rows of a model (needs no daemon)");
  auto options = std::make_shared<Options>();
  command->add_option("--rows", options->rows, "Queries, keys and values as `kvant rows` writes them")->required();
  command
      ->add_option("--plans", options->plans,
                   "KEYS or KEYS/VALUES: presets, codec specs, or method=NAME,KNOB=VALUE as VeloxQuant-MLX has them")
      ->capture_default_str();
  command->add_option("--artifact", options->artifact, "What calibrated codecs were calibrated on");
  command->add_option("--positions", options->positions, "Positions whose queries are tried, over the last three quarters")
      ->check(CLI::Range(1U, 1U << 20))
      ->capture_default_str();
  command->add_flag("--layers", options->layers, "Also a table of each plan's layers");
  command->callback([&invocation, options] { invocation.exit_code = Quality(invocation.globals, *options); });
}

}  // namespace kvant::tools
