// turboquant_mse: each row rotated, divided by its norm and rounded to a Lloyd-Max codebook for the normal distribution, dim by
// dim (Zandieh et al., arXiv 2504.19874), with one 16-bit scale per row chosen so that keys are unbiased and values have the
// least squared error (the scales of EDEN, arXiv 2108.08842 and 2604.18555).
//
//   x (optionally x - mean) -> y = Q x -> z = y * unit * sqrt(dim) / |x| -> code per dim -> reads back as
//   scale * Q' c / (unit * sqrt(dim)), c the code's integer centroid (kernels/lloyd/table.h).
//
// Block: the codes of block_tokens rows as kernels/lloyd/layout.h lays them out, then block_tokens ufloat16 scales, adjacent,
// little-endian: bits + 16 / head_dim bits per element. With planes=1 the same indices and scales in as many parts as there are
// bits (quantizers/plane_blocks.h), of which the last may be dropped. Q: RotationRounds rounds of signs and Hadamard mixing
// (kernels/rotation/hadamard.h; while encoding in integers where kernels/lloyd/integer.h says so), its signs from RotationSeed:
// codec name and version, model, layer, KV head and side. The tests hold golden bytes.
//
// Parameters: bits; center=1 subtracts the mean row of (layer, KV head), tensor "layers.<layer>.keys.mean" or
// "layers.<layer>.values.mean" of the plan's artifact, [kv_heads, head_dim]; scale picks another meaning of the scale.
#include <memory>
#include <string>
#include <utility>

#include "kernels/lloyd/accumulate.h"
#include "kernels/lloyd/encode.h"
#include "kernels/lloyd/score.h"
#include "quantizers/byte_codes.h"
#include "quantizers/calibrated_gauge.h"
#include "quantizers/codec.h"
#include "quantizers/gauged_keys.h"
#include "quantizers/lloyd_blocks.h"
#include "quantizers/plane_blocks.h"
#include "quantizers/shared_blocks.h"

namespace kvant::quantizers {
namespace {

using kernels::LloydScale;

constexpr std::string_view kName = "turboquant_mse";
constexpr std::uint32_t kVersion = 3;
/// Of the rotations' seeds: those of version 2, whose bytes gauge=none still writes.
constexpr std::uint32_t kRotationVersion = 2;

static_assert(kernels::LloydBlockBytes(4, 128, 128) == 8448 && kernels::LloydBlockBytes(2, 128, 128) == 4352 &&
              kernels::LloydBlockBytes(3, 128, 128) == 6400 && kernels::LloydBlockBytes(4, 80, 64) == 64 * 40 + 128);

enum Param : std::size_t { kBits, kCenter, kScale, kGauge, kPlanes };

/// Keys have a common part and strong channels, which cost some models everything; values do not.
GaugeChoice GaugeOf(const CodecConfig& config) {
  const auto chosen = static_cast<GaugeChoice>(config.params.Choice(kGauge));
  if (chosen != GaugeChoice::kAuto) return chosen;
  return config.side == Side::kKeys && config.params.Integer(kCenter) == 0 ? GaugeChoice::kBlock : GaugeChoice::kNone;
}

constexpr std::string_view kScaleNames[] = {"auto", "norm", "norm_kept", "least_squares", "unbiased"};
static_assert(static_cast<int>(LloydScale::kRaw) == 1 && static_cast<int>(LloydScale::kUnbiased) == 4,
              "kScaleNames lists the scales in this order, after auto");

LloydScale ScaleOf(const CodecConfig& config) {
  const std::size_t chosen = config.params.Choice(kScale);
  if (chosen != 0) return static_cast<LloydScale>(chosen);
  return config.side == Side::kKeys ? LloydScale::kUnbiased : LloydScale::kLeastSquares;
}

std::uint32_t BitsOf(const Params& params) { return static_cast<std::uint32_t>(params.Integer(kBits)); }
bool InPlanes(const Params& params) { return params.Integer(kPlanes) != 0; }
std::uint32_t MultipleOf(const Params& params) { return kernels::LloydBlockMultiple(InPlanes(params) ? 1 : BitsOf(params)); }

std::string MeanTensor(const CodecConfig& config) {
  return "layers." + std::to_string(config.layer) + (config.side == Side::kKeys ? ".keys.mean" : ".values.mean");
}

Result<LloydBlocks> MakeBlocks(const CodecConfig& config) {
  const std::string means = config.params.Integer(kCenter) != 0 ? MeanTensor(config) : std::string();
  return LloydBlocks::Make({.codec = {kName, kRotationVersion},
                            .bits = BitsOf(config.params),
                            .scale = ScaleOf(config),
                            .block_multiple = MultipleOf(config.params),
                            .means = means},
                           config);
}

class LloydKeys final : public OfSharedBlocks<KeyCodec, LloydBlocks> {
 public:
  explicit LloydKeys(LloydBlocks blocks) : OfSharedBlocks(std::move(blocks)) {}

  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    return blocks_.KeyNeeds(n, blocks_.table().bits, blocks_.encode_scratch());
  }
  void Prepare(const PrepareArgs& args) const override { blocks_.PrepareQueries(args, blocks_.table()); }
  void Score(const ScoreArgs& args) const override {
    ScoreByteCodes(args, blocks_.dim(), blocks_.tokens(),
                   [this](const kernels::ByteScoreArgs& bytes) { kernels::LloydScore(blocks_.table(), bytes); });
  }
};

class LloydValues final : public OfSharedBlocks<ValueCodec, LloydBlocks> {
 public:
  explicit LloydValues(LloydBlocks blocks) : OfSharedBlocks(std::move(blocks)) {}

  [[nodiscard]] Needs needs(std::size_t n) const noexcept override { return blocks_.ValueNeeds(n, blocks_.encode_scratch()); }

  [[nodiscard]] std::size_t accumulator_floats(std::size_t) const noexcept override { return blocks_.dim(); }
  void Accumulate(const AccumulateArgs& args) const override {
    kernels::LloydAccumulate(blocks_.table(), ByteAccumulate(args, blocks_.dim(), blocks_.tokens()));
  }
  void Finish(const FinishArgs& args) const override { blocks_.Unrotate(args, blocks_.table().unit); }
};

Result<std::unique_ptr<KeyCodec>> MakeLloydKeys(const CodecConfig& config) {
  const GaugeChoice gauge = GaugeOf(config);
  if (gauge != GaugeChoice::kNone && config.params.Integer(kCenter) != 0) {
    return Error{ErrorCode::kInvalidArgument,
                 std::string(kName) + ": center=1 and gauge=" + std::string(kGaugeNames[static_cast<std::size_t>(gauge)]) +
                     " both take a mean away from keys; choose one"};
  }
  auto blocks = MakeBlocks(config);
  if (!blocks) return std::move(blocks).error();
  std::unique_ptr<KeyCodec> keys;
  if (InPlanes(config.params)) {
    keys = MakePlaneKeys(std::move(*blocks));
  } else {
    keys = std::make_unique<LloydKeys>(std::move(*blocks));
  }
  return MakeKeysBehind(gauge, config, std::move(keys));
}

Result<std::unique_ptr<ValueCodec>> MakeLloydValues(const CodecConfig& config) {
  const GaugeChoice gauge = GaugeOf(config);
  if (gauge != GaugeChoice::kNone) return GaugeIsOfKeys(kName, gauge);
  auto blocks = MakeBlocks(config);
  if (!blocks) return std::move(blocks).error();
  if (InPlanes(config.params)) return MakePlaneValues(std::move(*blocks));
  return std::unique_ptr<ValueCodec>(std::make_unique<LloydValues>(std::move(*blocks)));
}

/// Means unlike each other in every channel and head, and rows around them.
Example ExampleMeans(const CodecConfig& config) {
  Example example;
  if (config.side == Side::kKeys && GaugeOf(config) == GaugeChoice::kMatrix) example.tensors = ExampleGauge(config);
  if (config.params.Integer(kCenter) == 0) return example;
  const std::size_t dim = config.head_dim;
  example.mean.resize(config.kv_heads * dim);
  for (std::size_t i = 0; i < example.mean.size(); ++i) {
    example.mean[i] = 0.25F * static_cast<float>(static_cast<int>((i + i / dim) % 5) - 2);
  }
  example.tensors.push_back({MeanTensor(config), {config.kv_heads, dim}, example.mean});
  return example;
}

constexpr std::int64_t kBitChoices[] = {1, 2, 3, 4, 5, 6, 7, 8};
constexpr ParamSpec kParams[] = {
    {.name = "bits", .default_value = "4", .meaning = "bits per code", .min = 1, .max = 8, .allowed = kBitChoices},
    {.name = "center", .default_value = "0", .meaning = "1: subtract the artifact's mean row", .min = 0, .max = 1},
    {.name = "scale",
     .kind = ParamKind::kChoice,
     .default_value = "auto",
     .meaning = "meaning of a row's scale; auto is unbiased for keys, least_squares for values",
     .choices = kScaleNames},
    {.name = "gauge",
     .kind = ParamKind::kChoice,
     .default_value = "auto",
     .meaning = "keys: what is taken out before coding; auto is block, with center=1 none; none is the published code",
     .choices = kGaugeNames},
    {.name = "planes",
     .default_value = "0",
     .meaning = "1: each bit in a plane of its own, so that a stored block can be cut down to its first planes; slower",
     .min = 0,
     .max = 1},
};

}  // namespace

extern const Codec kTurboQuantMse{
    .name = kName,
    .version = kVersion,
    .summary = "rotated rows in Lloyd-Max codes with one 16-bit scale per row; scored and summed without decoding",
    .params = kParams,
    .block_multiple = MultipleOf,
    .make_keys = MakeLloydKeys,
    .make_values = MakeLloydValues,
    .example = ExampleMeans,
};

}  // namespace kvant::quantizers
