// turboquant_tcq: rotated rows, as turboquant_mse has them, in trellis codes (kernels/trellis/code.h): a code of `bits` bits
// picks among twice as many levels, and which half of them depends on the three codes before it. The squared error is 0.66 to
// 0.77 of Lloyd-Max's at the same bits, what 0.2 to 0.3 bits more would give; the largest any code could have at 3 bits is 0.45
// of it.
//
//   x -> y = Q x -> z = y * unit * sqrt(dim) / |x| -> the path of codes whose levels c are nearest to z -> reads back as
//   scale * Q' c / (unit * sqrt(dim))
//
// Block: the codes of block_tokens rows as kernels/lloyd/layout.h lays them out, then block_tokens ufloat16 scales: bits +
// 16 / head_dim bits per element; keys have the block's gauge behind that (quantizers/gauged_keys.h). The scale is unbiased for
// keys, least squares for values. Q is rotated in floats; its signs have this codec's name. The tests hold golden bytes.
//
// Each row is encoded by a search through 8 states per number; scores and sums take a few instructions more than Lloyd codes.
#include <memory>
#include <string>
#include <utility>

#include "kernels/trellis/attend.h"
#include "kernels/trellis/encode.h"
#include "kernels/trellis/table.h"
#include "quantizers/byte_codes.h"
#include "quantizers/calibrated_gauge.h"
#include "quantizers/codec.h"
#include "quantizers/gauged_keys.h"
#include "quantizers/lloyd_blocks.h"
#include "quantizers/shared_blocks.h"

namespace kvant::quantizers {
namespace {

using kernels::LloydScale;
using kernels::TrellisTable;

constexpr std::string_view kName = "turboquant_tcq";
constexpr std::uint32_t kVersion = 1;

enum Param : std::size_t { kBits, kGauge };

std::uint32_t BitsOf(const Params& params) { return static_cast<std::uint32_t>(params.Integer(kBits)); }

GaugeChoice GaugeOf(const CodecConfig& config) {
  const auto chosen = static_cast<GaugeChoice>(config.params.Choice(kGauge));
  if (chosen != GaugeChoice::kAuto) return chosen;
  return config.side == Side::kKeys ? GaugeChoice::kBlock : GaugeChoice::kNone;
}

/// Blocks of Lloyd codes in all but what codes mean.
class TrellisBlocks {
 public:
  TrellisBlocks(LloydBlocks plain, const TrellisTable& table) : plain_(std::move(plain)), table_(table) {}

  [[nodiscard]] const LloydBlocks& plain() const noexcept { return plain_; }
  [[nodiscard]] const TrellisTable& table() const noexcept { return table_; }
  [[nodiscard]] std::size_t encode_scratch() const noexcept { return kernels::TrellisEncodeScratchBytes(plain_.dim()); }

  [[nodiscard]] std::size_t bytes() const noexcept { return plain_.bytes(); }
  [[nodiscard]] std::size_t memory_bytes() const noexcept { return plain_.memory_bytes(); }
  /// With 1 bit a state may allow no level above 0.34 standard deviations on one side, less than half of Lloyd's 0.79.
  [[nodiscard]] CodecTraits traits() const noexcept {
    CodecTraits traits = plain_.traits();
    traits.largest_norm *= 0.4F;
    return traits;
  }
  [[nodiscard]] CodeForm form() const noexcept {
    CodeForm form = plain_.form();
    form.family = CodeFamily::kTrellis;
    form.magnitudes = table_.magnitudes.data();
    return form;
  }
  [[nodiscard]] double expected_error() const {
    const kernels::TrellisError error = kernels::TrellisErrorOf(table_.bits(), plain_.dim());
    return plain_.scale() == LloydScale::kUnbiased ? error.unbiased : error.least_squares;
  }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const {
    auto* block = reinterpret_cast<std::uint8_t*>(args.block.part[0]);
    return plain_.Encoded(args, kernels::TrellisEncode(table_, plain_.EncodingOf(args.head), args.rows, block, args.scratch));
  }
  void Decode(const DecodeArgs& args) const {
    const auto* codes = reinterpret_cast<const std::uint8_t*>(args.block.part[0]);
    const std::byte* scales = args.block.part[0] + kernels::LloydCodesBytes(table_.bits(), plain_.dim(), plain_.tokens());
    plain_.DecodeRows(args, scales, table_.unit(), [&](std::size_t token, std::size_t i) {
      return table_.Level(
          kernels::TrellisLevelAt(plain_.layout(), table_.bits(), plain_.dim(), plain_.tokens(), codes, token, i));
    });
  }

 private:
  LloydBlocks plain_;
  const TrellisTable& table_;
};

class TrellisKeys final : public OfSharedBlocks<KeyCodec, TrellisBlocks> {
 public:
  explicit TrellisKeys(TrellisBlocks blocks) : OfSharedBlocks(std::move(blocks)) {}

  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    return blocks_.plain().KeyNeeds(n, blocks_.table().bits(), blocks_.encode_scratch());
  }
  void Prepare(const PrepareArgs& args) const override { blocks_.plain().PrepareQueries(args, blocks_.table().plain); }
  void Score(const ScoreArgs& args) const override {
    ScoreByteCodes(args, blocks_.plain().dim(), blocks_.plain().tokens(),
                   [this](const kernels::ByteScoreArgs& bytes) { kernels::TrellisScore(blocks_.table(), bytes); });
  }
};

class TrellisValues final : public OfSharedBlocks<ValueCodec, TrellisBlocks> {
 public:
  explicit TrellisValues(TrellisBlocks blocks) : OfSharedBlocks(std::move(blocks)) {}

  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    return blocks_.plain().ValueNeeds(n, blocks_.encode_scratch());
  }
  [[nodiscard]] std::size_t accumulator_floats(std::size_t) const noexcept override { return blocks_.plain().dim(); }
  void Accumulate(const AccumulateArgs& args) const override {
    kernels::TrellisAccumulate(blocks_.table(), ByteAccumulate(args, blocks_.plain().dim(), blocks_.plain().tokens()));
  }
  void Finish(const FinishArgs& args) const override { blocks_.plain().Unrotate(args, blocks_.table().unit()); }
};

Result<TrellisBlocks> MakeBlocks(const CodecConfig& config) {
  if (config.head_dim % kernels::kTrellisDimMultiple != 0 || config.head_dim < kernels::kLeastTrellisDim) {
    return Error{ErrorCode::kUnsupported, std::string(kName) + " layer " + std::to_string(config.layer) + ": head_dim " +
                                              std::to_string(config.head_dim) + " is not a multiple of 16 from 48 on"};
  }
  const TrellisTable& table = *kernels::FindTrellisTable(BitsOf(config.params));
  auto plain = LloydBlocks::Make({.codec = {kName, kVersion},
                                  .bits = table.bits(),
                                  .table = &table.plain,
                                  .scale = config.side == Side::kKeys ? LloydScale::kUnbiased : LloydScale::kLeastSquares,
                                  .block_multiple = kernels::LloydBlockMultiple(table.bits())},
                                 config);
  if (!plain) return std::move(plain).error();
  return TrellisBlocks(*std::move(plain), table);
}

Result<std::unique_ptr<KeyCodec>> MakeTrellisKeys(const CodecConfig& config) {
  auto blocks = MakeBlocks(config);
  if (!blocks) return std::move(blocks).error();
  return MakeKeysBehind(GaugeOf(config), config, std::make_unique<TrellisKeys>(*std::move(blocks)));
}

Result<std::unique_ptr<ValueCodec>> MakeTrellisValues(const CodecConfig& config) {
  if (GaugeOf(config) != GaugeChoice::kNone) return GaugeIsOfKeys(kName, GaugeOf(config));
  auto blocks = MakeBlocks(config);
  if (!blocks) return std::move(blocks).error();
  return std::unique_ptr<ValueCodec>(std::make_unique<TrellisValues>(*std::move(blocks)));
}

Example ExampleOfGauge(const CodecConfig& config) {
  Example example;
  if (config.side == Side::kKeys && GaugeOf(config) == GaugeChoice::kMatrix) example.tensors = ExampleGauge(config);
  return example;
}

constexpr ParamSpec kParams[] = {
    {.name = "bits", .default_value = "3", .meaning = "bits per code", .min = 1, .max = kernels::kMaxTrellisBits},
    {.name = "gauge",
     .kind = ParamKind::kChoice,
     .default_value = "auto",
     .meaning = "keys: what is taken out before coding; auto is block",
     .choices = kGaugeNames},
};

}  // namespace

extern const Codec kTurboQuantTcq{
    .name = kName,
    .version = kVersion,
    .summary = "rotated rows in trellis codes: a third less error than turboquant_mse at the same bits; slower to encode",
    .params = kParams,
    .block_multiple = [](const Params& params) { return kernels::LloydBlockMultiple(BitsOf(params)); },
    .make_keys = MakeTrellisKeys,
    .make_values = MakeTrellisValues,
    .example = ExampleOfGauge,
};

}  // namespace kvant::quantizers
