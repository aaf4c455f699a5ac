// turboquant_mse: each row rotated, divided by its norm and rounded to a Lloyd-Max codebook for the normal distribution, dim by
// dim (Zandieh et al., arXiv 2504.19874), with one 16-bit scale per row chosen so that keys are unbiased and values have the
// least squared error (the scales of EDEN, arXiv 2108.08842 and 2604.18555).
//
//   x (optionally x - mean) -> y = Q x -> z = y * unit * sqrt(dim) / |x| -> code per dim -> reads back as
//   scale * Q' c / (unit * sqrt(dim)), c the code's integer centroid (kernels/lloyd/table.h).
//
// Block: the codes of block_tokens rows as kernels/lloyd/layout.h lays them out, then block_tokens ufloat16 scales, adjacent,
// little-endian: bits + 16 / head_dim bits per element. Q: RotationRounds rounds of signs and Hadamard mixing
// (kernels/rotation/hadamard.h; while encoding in integers where kernels/lloyd/integer.h says so), its signs from RotationSeed:
// codec name and version, model, layer, KV head and side. The tests hold golden bytes.
//
// Parameters: bits; center=1 subtracts the mean row of (layer, KV head), tensor "layers.<layer>.keys.mean" or
// "layers.<layer>.values.mean" of the plan's artifact, [kv_heads, head_dim]; scale picks another meaning of the scale.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/lloyd/accumulate.h"
#include "kernels/lloyd/encode.h"
#include "kernels/lloyd/query.h"
#include "kernels/lloyd/score.h"
#include "kernels/rotation/unrotate.h"
#include "kernels/ufloat16.h"
#include "quantizers/artifact.h"
#include "quantizers/byte_codes.h"
#include "quantizers/codec.h"
#include "quantizers/gauged_keys.h"
#include "quantizers/lloyd_error.h"
#include "quantizers/rotation.h"
#include "quantizers/shared_blocks.h"
#include "quantizers/strided_rows.h"

namespace kvant::quantizers {
namespace {

using kernels::kLanes;
using kernels::LloydLayout;
using kernels::LloydScale;

constexpr std::string_view kName = "turboquant_mse";
constexpr std::uint32_t kVersion = 3;
/// Of the rotations' seeds: those of version 2, whose bytes gauge=none still writes.
constexpr std::uint32_t kRotationVersion = 2;

static_assert(kernels::LloydBlockBytes(4, 128, 128) == 8448 && kernels::LloydBlockBytes(2, 128, 128) == 4352 &&
              kernels::LloydBlockBytes(3, 128, 128) == 6400 && kernels::LloydBlockBytes(4, 80, 64) == 64 * 40 + 128);

enum Param : std::size_t { kBits, kCenter, kScale, kGauge };

enum Gauge : std::size_t { kAuto, kNone, kMean, kBlock, kMatrix };
constexpr std::string_view kGaugeNames[] = {"auto", "none", "mean", "block", "matrix"};

/// Keys have a common part and strong channels, which cost some models everything; values do not.
Gauge GaugeOf(const CodecConfig& config) {
  const auto chosen = static_cast<Gauge>(config.params.Choice(kGauge));
  if (chosen != kAuto) return chosen;
  return config.side == Side::kKeys && config.params.Integer(kCenter) == 0 ? kBlock : kNone;
}

constexpr std::string_view kScaleNames[] = {"auto", "norm", "norm_kept", "least_squares", "unbiased"};
static_assert(static_cast<int>(LloydScale::kRaw) == 1 && static_cast<int>(LloydScale::kUnbiased) == 4,
              "kScaleNames lists the scales in this order, after auto");

LloydScale ScaleOf(const CodecConfig& config) {
  const std::size_t chosen = config.params.Choice(kScale);
  if (chosen != 0) return static_cast<LloydScale>(chosen);
  return config.side == Side::kKeys ? LloydScale::kUnbiased : LloydScale::kLeastSquares;
}

std::string MeanTensor(const CodecConfig& config) {
  return "layers." + std::to_string(config.layer) + (config.side == Side::kKeys ? ".keys.mean" : ".values.mean");
}

/// What both sides share: tables, rotations and means of all KV heads of a layer.
class LloydBlocks {
 public:
  static Result<LloydBlocks> Make(const CodecConfig& config) {
    const std::string where = std::string(kName) + " layer " + std::to_string(config.layer) + ": ";
    if (config.head_dim < 8 || config.head_dim > kernels::kMaxHeadDim || config.head_dim % 8 != 0) {
      return Error{ErrorCode::kUnsupported,
                   where + "head_dim " + std::to_string(config.head_dim) + " is not a multiple of 8 in 8..1024"};
    }
    const auto bits = static_cast<std::uint32_t>(config.params.Integer(kBits));
    const auto multiple = kernels::LloydBlockMultiple(bits);
    if (config.block_tokens == 0 || config.block_tokens % multiple != 0) {
      return Error{ErrorCode::kInvalidArgument, where + "block_tokens " + std::to_string(config.block_tokens) +
                                                    " is not a multiple of " + std::to_string(multiple) +
                                                    ", which bits=" + std::to_string(bits) + " needs"};
    }
    LloydBlocks blocks;
    blocks.side_ = config.side;
    blocks.dim_ = config.head_dim;
    blocks.tokens_ = config.block_tokens;
    blocks.table_ = kernels::FindLloydTable(bits);
    blocks.scale_ = ScaleOf(config);
    if (config.params.Integer(kCenter) != 0) {
      if (config.artifact == nullptr) {
        return Error{ErrorCode::kInvalidArgument, where + "center=1 needs means, but the plan has no artifact"};
      }
      auto means = config.artifact->Find(MeanTensor(config), {config.kv_heads, config.head_dim});
      if (!means) return Error{means.error().code, where + "center=1: " + means.error().message};
      blocks.means_ = *means;
    }
    blocks.rotations_ = HeadRotations(kName, kRotationVersion, config);
    return blocks;
  }

  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] const kernels::LloydTable& table() const noexcept { return *table_; }
  [[nodiscard]] const Rotation& rotation(std::size_t head) const { return rotations_.of(head); }
  [[nodiscard]] std::size_t memory_bytes() const noexcept { return rotations_.memory_bytes(); }
  /// [head_dim], or null without centring.
  [[nodiscard]] const float* mean(std::size_t head) const noexcept {
    return means_.empty() ? nullptr : means_.data() + head * dim_;
  }
  [[nodiscard]] std::size_t bytes() const noexcept { return kernels::LloydBlockBytes(table_->bits, dim_, tokens_); }
  [[nodiscard]] std::size_t row_bytes() const noexcept { return dim_ * sizeof(float); }
  [[nodiscard]] std::size_t encode_scratch() const noexcept { return kernels::LloydEncodeScratchBytes(dim_); }
  [[nodiscard]] std::size_t unrotate_scratch(std::size_t n) const noexcept {
    return kernels::RotationScratchBytes(dim_) + n * row_bytes();
  }
  [[nodiscard]] std::size_t decode_scratch() const noexcept { return unrotate_scratch(1) + row_bytes(); }

  [[nodiscard]] CodecTraits traits() const noexcept {
    // With z the rotated row at norm sqrt(dim) and c its codes in units of a standard deviation, the stored scale is at most
    // |x| sqrt(dim) dim / <z, c>, which is largest for a row of one number: then <z, c> is sqrt(dim) times the largest
    // centroid, at least 0.79 (1 bit).
    float norm = 0.79F * kernels::kUfloat16Max / std::sqrt(static_cast<float>(dim_));
    for (const float number : means_) norm -= std::fabs(number);
    return {.exact_zero = means_.empty(), .largest_norm = std::max(0.0F, norm)};
  }
  [[nodiscard]] CodeForm form() const noexcept {
    return {.family = CodeFamily::kScalar,
            .order = side_ == Side::kKeys ? CodeOrder::kKeyTiles : CodeOrder::kValueTiles,
            .bits = static_cast<std::uint8_t>(table_->bits),
            .magnitudes = table_->magnitudes.data(),
            .level_unit = table_->unit * std::sqrt(static_cast<float>(dim_)),
            .scale_format = ScaleFormat::kUfloat16,
            .scale_offset = kernels::LloydCodesBytes(table_->bits, dim_, tokens_),
            .rotated = true,
            .centered = !means_.empty()};
  }
  [[nodiscard]] double expected_error() const { return RotatedLloydError(*table_, static_cast<std::uint32_t>(dim_), scale_); }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const {
    const Rotation& map = rotation(args.head);
    const kernels::LloydEncoding how{.table = table_,
                                     .shape = map.shape(),
                                     .rounds = map.rounds(),
                                     .signs = map.signs(),
                                     .mean = mean(args.head),
                                     .layout = layout(),
                                     .scale = scale_};
    const std::size_t row =
        kernels::LloydEncode(how, args.rows, reinterpret_cast<std::uint8_t*>(args.block.part[0]), args.scratch);
    if (row == args.rows.count) return {};
    return Error{ErrorCode::kNotFinite, "encode as " + std::string(kName) + ": row " + std::to_string(row) + " of KV head " +
                                            std::to_string(args.head) + " holds NaN or infinity, or its norm exceeds 8.5e9"};
  }

  /// Scratch: Unrotate's of one row, then a row.
  void Decode(const DecodeArgs& args) const {
    const auto* codes = reinterpret_cast<const std::uint8_t*>(args.block.part[0]);
    const std::byte* scales = args.block.part[0] + kernels::LloydCodesBytes(table_->bits, dim_, tokens_);
    auto* row = reinterpret_cast<float*>(args.scratch + unrotate_scratch(1));
    for (std::size_t token = args.begin; token < args.end; ++token) {
      std::uint16_t bits;
      std::memcpy(&bits, scales + token * sizeof(bits), sizeof(bits));
      const float scale = kernels::Ufloat16ToFloat(bits);
      for (std::size_t i = 0; i < dim_; ++i) {
        const auto index = kernels::LloydIndexAt(layout(), table_->bits, dim_, tokens_, codes, token, i);
        row[i] = static_cast<float>(table_->Centroid(index)) * scale;
      }
      const float one = 1.0f;
      Unrotate({.head = args.head,
                .acc = row,
                .acc_stride = dim_,
                .acc_floats = dim_,
                .weight_sums = &one,
                .n = 1,
                .rows = args.rows + (token - args.begin) * args.row_stride,
                .row_stride = args.row_stride,
                .add = args.add,
                .scratch = args.scratch});
    }
  }

  /// Accumulators in codebook units to rows; row i gets its mean times weight_sums[i] added. Scratch: the kernel's, then n
  /// rows.
  void Unrotate(const FinishArgs& args) const {
    const Rotation& map = rotation(args.head);
    const auto factor =
        static_cast<float>(1.0 / (map.shape().gain(map.rounds()) * table_->unit * std::sqrt(static_cast<double>(dim_))));
    float* target = RowsTarget(args.rows, args.row_stride, args.n, dim_, args.add,
                               reinterpret_cast<float*>(args.scratch + kernels::RotationScratchBytes(dim_)));
    kernels::Unrotate(
        {map.map(), factor, mean(args.head), args.weight_sums, args.acc, args.acc_stride, args.n, target, args.scratch});
    PutRows(target, args.n, dim_, args.rows, args.row_stride, args.add);
  }

 private:
  LloydBlocks() = default;
  [[nodiscard]] LloydLayout layout() const noexcept { return side_ == Side::kKeys ? LloydLayout::kKeys : LloydLayout::kValues; }

  Side side_ = Side::kKeys;
  std::size_t dim_ = 0;
  std::size_t tokens_ = 0;
  const kernels::LloydTable* table_ = nullptr;
  LloydScale scale_ = LloydScale::kUnbiased;
  std::span<const float> means_;  ///< [kv_heads, head_dim] of the artifact, or empty
  HeadRotations rotations_;
};

class LloydKeys final : public OfSharedBlocks<KeyCodec, LloydBlocks> {
 public:
  explicit LloydKeys(LloydBlocks blocks) : OfSharedBlocks(std::move(blocks)) {}

  /// Scratch: the kernel's of Prepare, then queries that do not lie adjacent; or Score's.
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    const std::size_t prepare = kernels::RotationScratchBytes(blocks_.dim()) + n * blocks_.row_bytes();
    const std::size_t score = ByteCodesScoreScratch(n, blocks_.dim(), blocks_.tokens());
    return {.encode = blocks_.encode_scratch(),
            .decode = blocks_.decode_scratch(),
            .prepared = (n + kLanes - 1) / kLanes * kernels::LloydQueryBatchBytes(blocks_.table().bits, blocks_.dim()),
            .scratch = std::max(prepare, score)};
  }

  void Prepare(const PrepareArgs& args) const override {
    const float* queries = AdjacentRows(args.queries, args.query_stride, args.n, blocks_.dim(),
                                        reinterpret_cast<float*>(args.scratch + kernels::RotationScratchBytes(blocks_.dim())));
    kernels::LloydPrepareQueries({&blocks_.table(), blocks_.rotation(args.head).map(), blocks_.mean(args.head)}, queries,
                                 args.n, args.prepared, args.scratch);
  }
  void Score(const ScoreArgs& args) const override {
    ScoreByteCodes(args, blocks_.dim(), blocks_.tokens(),
                   [this](const kernels::ByteScoreArgs& bytes) { kernels::LloydScore(blocks_.table(), bytes); });
  }
};

class LloydValues final : public OfSharedBlocks<ValueCodec, LloydBlocks> {
 public:
  explicit LloydValues(LloydBlocks blocks) : OfSharedBlocks(std::move(blocks)) {}

  /// Scratch: the kernel's of Accumulate, or rows of Finish that are not simply overwritten.
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    return {.encode = blocks_.encode_scratch(),
            .decode = blocks_.decode_scratch(),
            .scratch = std::max(kernels::ByteAccumulateScratchBytes(n), blocks_.unrotate_scratch(n))};
  }

  [[nodiscard]] std::size_t accumulator_floats(std::size_t) const noexcept override { return blocks_.dim(); }
  void Accumulate(const AccumulateArgs& args) const override {
    kernels::LloydAccumulate(blocks_.table(), ByteAccumulate(args, blocks_.dim(), blocks_.tokens()));
  }
  void Finish(const FinishArgs& args) const override { blocks_.Unrotate(args); }
};

Result<std::unique_ptr<KeyCodec>> MakeLloydKeys(const CodecConfig& config) {
  const Gauge gauge = GaugeOf(config);
  if (gauge != kNone && config.params.Integer(kCenter) != 0) {
    return Error{ErrorCode::kInvalidArgument, std::string(kName) + ": center=1 and gauge=" + std::string(kGaugeNames[gauge]) +
                                                  " both take a mean away from keys; choose one"};
  }
  auto blocks = LloydBlocks::Make(config);
  if (!blocks) return std::move(blocks).error();
  auto keys = std::make_unique<LloydKeys>(std::move(*blocks));
  if (gauge == kNone) return std::unique_ptr<KeyCodec>(std::move(keys));
  const GaugeKind kind = gauge == kMean ? GaugeKind::kMean : gauge == kBlock ? GaugeKind::kGains : GaugeKind::kMatrix;
  return MakeGaugedKeys(kind, config, std::move(keys));
}

Result<std::unique_ptr<ValueCodec>> MakeLloydValues(const CodecConfig& config) {
  const Gauge gauge = GaugeOf(config);
  if (gauge != kNone) {
    return Error{ErrorCode::kUnsupported,
                 std::string(kName) + ": gauge=" + std::string(kGaugeNames[gauge]) + " is of keys alone"};
  }
  auto blocks = LloydBlocks::Make(config);
  if (!blocks) return std::move(blocks).error();
  return std::unique_ptr<ValueCodec>(std::make_unique<LloydValues>(std::move(*blocks)));
}

/// Means unlike each other in every channel and head, and rows around them.
Example ExampleMeans(const CodecConfig& config) {
  Example example;
  if (config.side == Side::kKeys && GaugeOf(config) == kMatrix) example.tensors = ExampleGauge(config);
  if (config.params.Integer(kCenter) == 0) return example;
  const std::size_t dim = config.head_dim;
  example.mean.resize(config.kv_heads * dim);
  for (std::size_t i = 0; i < example.mean.size(); ++i) {
    example.mean[i] = 0.25F * static_cast<float>(static_cast<int>((i + i / dim) % 5) - 2);
  }
  example.tensors.push_back({MeanTensor(config), {config.kv_heads, dim}, example.mean});
  return example;
}

constexpr std::int64_t kBitChoices[] = {1, 2, 3, 4, 8};
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
};

}  // namespace

extern const Codec kTurboQuantMse{
    .name = kName,
    .version = kVersion,
    .summary = "rotated rows in Lloyd-Max codes with one 16-bit scale per row; scored and summed without decoding",
    .params = kParams,
    .block_multiple =
        [](const Params& params) { return kernels::LloydBlockMultiple(static_cast<std::uint32_t>(params.Integer(kBits))); },
    .make_keys = MakeLloydKeys,
    .make_values = MakeLloydValues,
    .example = ExampleMeans,
};

}  // namespace kvant::quantizers
