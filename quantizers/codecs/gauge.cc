// gauge: any codec of keys, behind the mean of each block's own keys and, if wanted, the block's gains or a calibrated matrix
// (quantizers/gauged_keys.h has the formulas and the block's format). turboquant_mse has the same built in.
//
// Parameters: kind; codes, the codec of what is left.
#include <memory>
#include <string>
#include <utility>

#include "quantizers/codec.h"
#include "quantizers/gauged_keys.h"
#include "quantizers/registry.h"

namespace kvant::quantizers {
namespace {

constexpr std::string_view kName = "gauge";

enum Param : std::size_t { kKind, kCodes };

constexpr std::string_view kKindNames[] = {"mean", "block", "matrix"};
constexpr GaugeKind kKinds[] = {GaugeKind::kMean, GaugeKind::kGains, GaugeKind::kMatrix};

CodecConfig InnerConfig(const CodecConfig& config) {
  CodecConfig inner = config;
  inner.stream = ChildStream(config.stream, 0);
  return inner;
}

Result<std::unique_ptr<KeyCodec>> MakeGauge(const CodecConfig& config) {
  auto inner = MakeKeys(config.params.Spec(kCodes), InnerConfig(config));
  if (!inner) return std::move(inner).error();
  const GaugeKind kind = kKinds[config.params.Choice(kKind)];
  if ((*inner)->pre_rope() && kind == GaugeKind::kMatrix) {
    return Error{ErrorCode::kUnsupported,
                 std::string(kName) + ": kind=matrix is calibrated for keys after RoPE, the codes take them before"};
  }
  return MakeGaugedKeys(kind, config, *std::move(inner));
}

Example ExampleOfGauge(const CodecConfig& config) {
  Example example = ExampleOf(config.params.Spec(kCodes), InnerConfig(config));
  if (kKinds[config.params.Choice(kKind)] == GaugeKind::kMatrix) {
    for (ExampleTensor& tensor : ExampleGauge(config)) example.tensors.push_back(std::move(tensor));
  }
  return example;
}

constexpr ParamSpec kParams[] = {
    {.name = "kind",
     .kind = ParamKind::kChoice,
     .default_value = "block",
     .meaning = "mean: the block's mean; block: also its gains; matrix: its mean and a calibrated matrix",
     .choices = kKindNames},
    {.name = "codes", .kind = ParamKind::kSpec, .default_value = "int8", .meaning = "the codec of what is left"},
};

}  // namespace

extern const Codec kGauge{
    .name = kName,
    .summary = "any codec of keys, behind the mean and the gains of each block's own keys",
    .params = kParams,
    .block_multiple = [](const Params& params) { return BlockMultiple(params.Spec(kCodes)); },
    .make_keys = MakeGauge,
    .example = ExampleOfGauge,
};

}  // namespace kvant::quantizers
