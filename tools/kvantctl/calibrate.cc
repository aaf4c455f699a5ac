// kvantctl calibrate: what calibrated codecs want to know, from dumped rows of a model; and what an artifact holds. Needs no
// daemon.
#include <unistd.h>
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "quantizers/safetensors.h"
#include "tools/kvantctl/command.h"
#include "tools/kvantctl/render.h"
#include "tools/kvantctl/rows/gauge.h"
#include "tools/kvantctl/rows/rows_file.h"

namespace kvant::tools {
namespace {

using quantizers::Safetensors;
using quantizers::StoredTensor;
using quantizers::TensorToWrite;

constexpr std::size_t kFewestTokens = 256;

struct Options {
  std::string rows;
  std::string artifact_out;
  std::string show;
};

/// Tensors of all layers, in the order in which they are written.
class ArtifactWriter {
 public:
  void Add(std::string name, std::vector<std::size_t> shape, std::vector<float> numbers) {
    numbers_.push_back(std::make_unique<std::vector<float>>(std::move(numbers)));
    tensors_.push_back(
        {.name = std::move(name), .shape = std::move(shape), .bytes = std::as_bytes(std::span<const float>(*numbers_.back()))});
  }
  [[nodiscard]] std::size_t count() const noexcept { return tensors_.size(); }

  [[nodiscard]] Result<void> Write(const std::string& path, std::size_t tokens) const {
    const Json about = {{"artifact_version", 1}, {"tokens", tokens}};
    const std::vector<std::byte> image = quantizers::WriteSafetensors(tensors_, {{"kvant", about.dump()}});
    errno = 0;
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(reinterpret_cast<const char*>(image.data()), static_cast<std::streamsize>(image.size()));
    file.close();
    if (!file) return Error{ErrorCode::kInternal, "write " + path + ": " + std::generic_category().message(errno)};
    return {};
  }

 private:
  std::vector<std::unique_ptr<std::vector<float>>> numbers_;
  std::vector<TensorToWrite> tensors_;
};

/// "layer 3 of 30" on standard error, where a person looks at it.
class Progress {
 public:
  Progress(std::string what, std::size_t total) : what_(std::move(what)), total_(total), shown_(isatty(STDERR_FILENO) == 1) {}
  ~Progress() {
    if (shown_) std::fputs("\r\033[K", stderr);
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;
  void Step() {
    if (shown_) std::fprintf(stderr, "\r%s: layer %zu of %zu", what_.c_str(), ++done_, total_);
  }

 private:
  std::string what_;
  std::size_t total_;
  std::size_t done_ = 0;
  bool shown_;
};

int CalibrateRows(const Globals& globals, const Options& options) {
  const auto file = RowsFile::Open(options.rows);
  if (!file) return Report(globals, file.error());
  const RowsShape& shape = file->shape();
  if (shape.tokens < kFewestTokens) {
    return Report(globals, {ErrorCode::kOutOfRange,
                            options.rows + ": " + std::to_string(shape.tokens) + " tokens, at least 256 are wanted"});
  }
  ArtifactWriter writer;
  Progress progress("calibrate", shape.layers);
  for (std::size_t layer = 0; layer < shape.layers; ++layer) {
    const auto rows = file->Read(layer);
    if (!rows) return Report(globals, rows.error());
    LayerCalibration of = Calibrate(shape, *rows);
    const std::string prefix = "layers." + std::to_string(layer) + ".";
    const std::size_t heads = shape.kv_heads, dim = shape.head_dim;
    writer.Add(prefix + "keys.mean", {heads, dim}, std::move(of.key_mean));
    writer.Add(prefix + "keys.smooth", {heads, dim}, std::move(of.smooth));
    writer.Add(prefix + "keys.gauge", {heads, dim, dim}, std::move(of.gauge));
    writer.Add(prefix + "keys.gauge_inverse", {heads, dim, dim}, std::move(of.gauge_inverse));
    writer.Add(prefix + "values.mean", {heads, dim}, std::move(of.value_mean));
    progress.Step();
  }
  if (auto written = writer.Write(options.artifact_out, shape.tokens); !written) return Report(globals, written.error());
  if (globals.format == Format::kJson) {
    Print(Json{{"artifact", options.artifact_out}, {"tokens", shape.tokens}, {"tensors", writer.count()}});
  } else {
    Print(options.artifact_out + ": " + std::to_string(writer.count()) + " tensors, measured on " + HumanCount(shape.tokens) +
          " tokens\n");
  }
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
    Print(Json{{"artifact", path}, {"tensors", std::move(list)}});
    return kOk;
  }
  Table table({{"TENSOR"}, {"LAYERS", Align::kRight}, {"SHAPE"}, {"LEAST", Align::kRight}, {"MOST", Align::kRight}});
  for (const auto& [name, kind] : kinds) {
    std::array<char, 32> least{}, most{};
    std::snprintf(least.data(), least.size(), "%.5g", static_cast<double>(kind.least));
    std::snprintf(most.data(), most.size(), "%.5g", static_cast<double>(kind.most));
    table.Add({name, std::to_string(kind.layers), quantizers::ShapeText(kind.shape), least.data(), most.data()});
  }
  Print(table.ToString());
  return kOk;
}

}  // namespace

void AddCalibrate(CLI::App& app, Invocation& invocation) {
  CLI::App* command = app.add_subcommand("calibrate",
                                         "Means, smooth factors and gauges from dumped rows of a model, as an artifact (needs "
                                         "no daemon). `kvant calibrate` of the "
                                         "Python package reads models, and makes codebooks, directions and allocations too");
  auto options = std::make_shared<Options>();
  CLI::Option* show = command->add_option("--show", options->show, "Print what an artifact holds");
  CLI::Option* rows = command->add_option("--rows", options->rows, "Queries, keys and values as `kvant rows` writes them");
  CLI::Option* out = command->add_option("--artifact-out", options->artifact_out, "The artifact to write, a safetensors file");
  rows->needs(out)->excludes(show);
  out->needs(rows);
  command->require_option(1, 2);
  command->callback([&invocation, options] {
    invocation.exit_code =
        options->show.empty() ? CalibrateRows(invocation.globals, *options) : Show(invocation.globals, options->show);
  });
}

}  // namespace kvant::tools
