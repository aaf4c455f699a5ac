// turboquant_rvq: rotated rows rounded twice with `bits` bits per dim, the second time what the first has left over: the
// residual code of the VeloxQuant package (no paper describes it).
//
// The sums of the two stages' levels are one symmetric, ascending table of 2^(2 bits) levels, and rounding stage by stage picks
// the nearest of them, because no level of the second stage reaches half way to the next of the first. So this is the code of
// turboquant_mse with 2 * bits bits and another table (kernels/lloyd/table.h), and it is scored as that. By the same token
// turboquant_mse of 2 * bits bits, whose table is the best there is, is always better: squared errors at 128 dims 0.131 against
// 0.141 (2 bits) and 0.0093 against 0.0181 (4 bits). The codec is here for who must compare with it.
//
// First stage: Lloyd-Max levels of the normal distribution (0.798; 0.453 and 1.510). Second stage, of the residual:
//   velox_sigma=0: its own optimal levels (0.483; 0.150 and 0.451);
//   velox_sigma=1: the published rule, Lloyd-Max levels of the Laplace distribution (0.707; 0.420 and 1.834) times
//                  sqrt(3 pi) / 2 * 4^-bits, which takes a bound of the variance for a standard deviation.
//
// Block: the codes of block_tokens rows as kernels/lloyd/layout.h lays keys out, then block_tokens ufloat16 scales: 2 * bits +
// 16 / head_dim bits per element. Rotation and scale are those of turboquant_mse, the rotation's seed has this codec's name.
#include <array>
#include <memory>

#include "kernels/lloyd/encode.h"
#include "quantizers/lloyd_error.h"
#include "quantizers/rotated_keys.h"

namespace kvant::quantizers {
namespace {

using kernels::LloydScale;

constexpr CodecName kCodec{"turboquant_rvq", 1};

enum Param : std::size_t { kBits, kVeloxSigma, kScale };

constexpr std::string_view kScaleNames[] = {"unbiased", "norm", "norm_kept", "least_squares"};
constexpr LloydScale kScales[] = {LloydScale::kUnbiased, LloydScale::kRaw, LloydScale::kNormCorrected,
                                  LloydScale::kLeastSquares};

/// The sums of the stages' levels in integers, and integers per standard deviation: the closest within what the kernels take.
const kernels::LloydTable& TableOf(const CodecConfig& config) {
  static constexpr std::int16_t kOptimal1[] = {15, 61};
  static constexpr std::int16_t kOptimal2[] = {0, 2, 4, 6, 7, 9, 11, 13};
  static constexpr std::int16_t kVelox1[] = {31, 63};
  static constexpr std::int16_t kVelox2[] = {14, 21, 25, 32, 68, 75, 79, 86};
  static const kernels::LloydTable tables[] = {
      kernels::MakeLloydTable(2, 47.634014F, kOptimal1), kernels::MakeLloydTable(2, 58.911811F, kVelox1),
      kernels::MakeLloydTable(4, 6.6234307F, kOptimal2), kernels::MakeLloydTable(4, 50.965814F, kVelox2)};
  return tables[2 * (config.params.Integer(kBits) - 1) + config.params.Integer(kVeloxSigma)];
}

class ResidualKeys final : public RotatedKeys {
 public:
  explicit ResidualKeys(const CodecConfig& config)
      : RotatedKeys(kCodec, config, TableOf(config)), scale_(kScales[config.params.Choice(kScale)]) {}

  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override {
    return RotatedLloydError(table(), static_cast<std::uint32_t>(dim()), scale_);
  }
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    Needs needs = RotatedKeys::needs(n);
    needs.encode = kernels::LloydEncodeScratchBytes(dim());
    return needs;
  }
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override {
    const Rotation& map = rotation(args.head);
    const kernels::LloydEncoding how{.table = &table(),
                                     .shape = map.shape(),
                                     .rounds = map.rounds(),
                                     .signs = map.signs(),
                                     .layout = kernels::LloydLayout::kKeys,
                                     .scale = scale_};
    const std::size_t row =
        kernels::LloydEncode(how, args.rows, reinterpret_cast<std::uint8_t*>(args.block.part[0]), args.scratch);
    if (row == args.rows.count) return {};
    return BadRow(kCodec, row, args.head);
  }

 private:
  LloydScale scale_;
};

std::uint32_t TotalBits(const Params& params) { return 2 * static_cast<std::uint32_t>(params.Integer(kBits)); }

Result<std::unique_ptr<KeyCodec>> MakeResidualKeys(const CodecConfig& config) {
  if (auto ok = CheckRotatedShape(kCodec, config, TotalBits(config.params)); !ok) return ok.error();
  return std::unique_ptr<KeyCodec>(std::make_unique<ResidualKeys>(config));
}

constexpr ParamSpec kParams[] = {
    {.name = "bits", .default_value = "2", .meaning = "bits per code of each of the two stages", .min = 1, .max = 2},
    {.name = "velox_sigma", .default_value = "0", .meaning = "1: the published second stage", .min = 0, .max = 1},
    {.name = "scale",
     .kind = ParamKind::kChoice,
     .default_value = "unbiased",
     .meaning = "meaning of a row's scale",
     .choices = kScaleNames},
};

}  // namespace

extern const Codec kTurboQuantRvq{
    .name = kCodec.name,
    .version = kCodec.version,
    .summary = "keys rounded twice, for comparison: turboquant_mse of twice the bits is better at the same size",
    .params = kParams,
    .block_multiple = [](const Params& params) { return kernels::LloydBlockMultiple(TotalBits(params)); },
    .make_keys = MakeResidualKeys,
};

}  // namespace kvant::quantizers
