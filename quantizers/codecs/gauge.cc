// gauge: any codec of keys, behind the mean of each block's own keys and, if wanted, the block's gains, a calibrated matrix or
// calibrated gains of pairs (quantizers/gauged_keys.h has the formulas and the block's format); or behind the removal of the
// key projection's bias (quantizers/unbiased_keys.h). turboquant_mse has mean, block and matrix built in.
//
// Parameters: kind; codes, the codec of what is left.
#include <iterator>
#include <memory>
#include <string>
#include <utility>

#include "quantizers/calibrated_gauge.h"
#include "quantizers/codec.h"
#include "quantizers/gauged_keys.h"
#include "quantizers/registry.h"
#include "quantizers/unbiased_keys.h"

namespace kvant::quantizers {
namespace {

constexpr std::string_view kName = "gauge";

enum Param : std::size_t { kKind, kCodes };

constexpr std::string_view kKindNames[] = {"mean", "block", "matrix", "pair", "channels", "bias"};
constexpr GaugeKind kKinds[] = {GaugeKind::kMean, GaugeKind::kGains, GaugeKind::kMatrix, GaugeKind::kPair,
                                GaugeKind::kChannels};

bool OfBias(const Params& params) { return params.Choice(kKind) == std::size(kKinds); }

CodecConfig InnerConfig(const CodecConfig& config) {
  CodecConfig inner = config;
  inner.stream = ChildStream(config.stream, 0);
  return inner;
}

Result<std::unique_ptr<KeyCodec>> MakeGauge(const CodecConfig& config) {
  auto inner = MakeKeys(config.params.Spec(kCodes), InnerConfig(config));
  if (!inner) return std::move(inner).error();
  if (OfBias(config.params)) return MakeUnbiasedKeys(config, *std::move(inner));
  const std::size_t kind = config.params.Choice(kKind);
  if ((*inner)->pre_rope()) {
    return Error{ErrorCode::kUnsupported, std::string(kName) + ": kind=" + std::string(kKindNames[kind]) +
                                              " is of keys after RoPE, the codes take them before; kind=bias is of both"};
  }
  return MakeGaugedKeys(kKinds[kind], config, *std::move(inner));
}

Example ExampleOfGauge(const CodecConfig& config) {
  Example example = ExampleOf(config.params.Spec(kCodes), InnerConfig(config));
  const auto add = [&](std::vector<ExampleTensor> tensors) {
    for (ExampleTensor& tensor : tensors) example.tensors.push_back(std::move(tensor));
  };
  if (OfBias(config.params)) {
    add(ExampleBias(config));
  } else if (kKinds[config.params.Choice(kKind)] == GaugeKind::kMatrix) {
    add(ExampleGauge(config));
  } else if (kKinds[config.params.Choice(kKind)] == GaugeKind::kPair) {
    add(ExamplePairGains(config));
  }
  return example;
}

constexpr ParamSpec kParams[] = {
    {.name = "kind",
     .kind = ParamKind::kChoice,
     .default_value = "block",
     .meaning = "mean: the block's mean; block, channels: also its gains; matrix, pair: its mean and calibration's; bias: the "
                "projection's",
     .choices = kKindNames},
    {.name = "codes", .kind = ParamKind::kSpec, .default_value = "int8", .meaning = "the codec of what is left"},
};

}  // namespace

extern const Codec kGauge{
    .name = kName,
    .summary = "any codec of keys, behind the mean and the gains of each block's own keys, or without the projection's bias",
    .params = kParams,
    .block_multiple = [](const Params& params) { return BlockMultiple(params.Spec(kCodes)); },
    .make_keys = MakeGauge,
    .head_bytes =
        [](const Params& params, std::uint32_t head_dim) {
          return OfBias(params) ? UnbiasedHeadBytes(head_dim) : kHeadBytesPerNumber * head_dim;
        },
    .example = ExampleOfGauge,
};

}  // namespace kvant::quantizers
