// kivi: groups of numbers between their own minimum and maximum (Liu et al., arXiv 2402.02750, section 4; asymmetric
// quantisation): keys per channel, over `group` consecutive tokens, so that a channel of large numbers costs only itself;
// values per token, over `group` channels.
//
//   zero = the largest f16 number not above the group's minimum, step = (maximum - zero) / (2^bits - 1) as ufloat16,
//   code = round((x - zero) / step), x' = zero + step * code: |x - x'| <= step / 2. max = min: step 0, code 0.
//
// Block: the codes, then steps and zeros group by group (kernels/affine/layout.h). Keys: bits + 32 / group bits per element;
// values: bits + 32 ceil(head_dim / group) / head_dim. Groups of keys begin at multiples of `group` tokens, which blocks do
// too, so that a block's bytes depend on its own rows alone. Numbers beyond f16's range are refused.
//
// Rotated codes of about as many bits (turboquant_mse) have half the error on rows without outlier channels or a common part,
// and keys of less than 4 bits are for models without grouped queries (section 5 of the paper). bits=1 is there for
// completeness: its error is larger than that of zeros.
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>

#include "kernels/affine/attend.h"
#include "kernels/affine/encode.h"
#include "kernels/affine/float16.h"
#include "kernels/affine/layout.h"
#include "kernels/raw/rows.h"
#include "kernels/ufloat16.h"
#include "quantizers/byte_codes.h"
#include "quantizers/codec.h"
#include "quantizers/range_error.h"
#include "quantizers/strided_rows.h"

namespace kvant::quantizers {
namespace {

using kernels::AffineShape;
using kernels::LloydLayout;

static_assert(AffineShape{LloydLayout::kValues, 2, 32, 128, 128}.bytes() == 6144 &&
              AffineShape{LloydLayout::kValues, 4, 32, 80, 128}.bytes() == 128 * (40 + 12) &&
              AffineShape{LloydLayout::kKeys, 4, 32, 80, 128}.bytes() == 128 * 80 * 5 / 8);

enum Param : std::size_t { kBits, kGroup };

/// What both sides share.
class KiviBlock {
 public:
  explicit KiviBlock(const AffineShape& shape) : shape_(shape) {}

  [[nodiscard]] const AffineShape& shape() const noexcept { return shape_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return shape_.bytes(); }
  /// Keys have a zero per channel: a row of zeros among others is rounded like any other.
  [[nodiscard]] CodecTraits traits() const noexcept {
    const bool per_token = shape_.layout == LloydLayout::kValues;
    return {.exact_zero = per_token, .rows_alone = per_token, .largest_norm = kernels::kF16Max};
  }
  [[nodiscard]] double expected_error() const {
    if (shape_.layout == LloydLayout::kKeys) return RangeError(shape_.group, shape_.bits);
    const std::size_t whole = shape_.dim / shape_.group, rest = shape_.dim % shape_.group;
    double sum = 0;
    if (whole > 0) sum += static_cast<double>(whole * shape_.group) * RangeError(shape_.group, shape_.bits);
    if (rest > 0) sum += static_cast<double>(rest) * RangeError(rest, shape_.bits);
    return sum / static_cast<double>(shape_.dim);
  }
  /// Rows that are encoded together, then the kernel's.
  [[nodiscard]] std::size_t encode_scratch() const noexcept { return rows_bytes() + kernels::AffineEncodeScratchBytes(shape_); }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const {
    const RowsView& rows = args.rows;
    const auto* src = static_cast<const std::byte*>(rows.data);
    auto* together = reinterpret_cast<float*>(args.scratch);
    kernels::ClearAffineCodes(shape_, args.block.part[0]);
    for (std::size_t t = 0; t < shape_.tokens; ++t) {
      const std::size_t at = t % kernels::AffineRowsAtOnce(shape_);
      const float largest =
          kernels::LoadRow(src + t * rows.stride * ElementBytes(rows.type), rows.type, shape_.dim, together + at * shape_.dim);
      if (!(largest <= kernels::kF16Max)) {
        return Error{ErrorCode::kNotFinite,
                     "encode as kivi: row " + std::to_string(t) +
                         (std::isfinite(largest) ? " has numbers beyond 65504" : " holds NaN or infinity")};
      }
      if (at + 1 < kernels::AffineRowsAtOnce(shape_)) continue;
      kernels::EncodeAffine(shape_, together, t - at, args.block.part[0], args.scratch + rows_bytes());
    }
    return {};
  }

  void Decode(const DecodeArgs& args) const {
    const std::byte* block = args.block.part[0];
    const auto* codes = reinterpret_cast<const std::uint8_t*>(block);
    const bool keys = shape_.layout == LloydLayout::kKeys;
    for (std::size_t t = args.begin; t < args.end; ++t) {
      float* row = args.rows + (t - args.begin) * args.row_stride;
      for (std::size_t d = 0; d < shape_.dim; ++d) {
        const std::size_t group = (keys ? t : d) / shape_.group, line = keys ? d : t;
        const float step = kernels::Ufloat16ToFloat(Bits(block + shape_.steps_at(group), line));
        const float zero = kernels::F16ToFloat(Bits(block + shape_.zeros_at(group), line));
        const float number = zero + step * static_cast<float>(kernels::AffineCodeAt(shape_, codes, t, d));
        row[d] = args.add ? row[d] + number : number;
      }
    }
  }

 private:
  [[nodiscard]] std::size_t rows_bytes() const noexcept {
    return kernels::AffineRowsAtOnce(shape_) * shape_.dim * sizeof(float);
  }
  static std::uint16_t Bits(const std::byte* side, std::size_t line) {
    return reinterpret_cast<const std::uint16_t*>(side)[line];  // even: head_dim is a multiple of 8
  }

  AffineShape shape_;
};

class KiviKeys final : public KeyCodec {
 public:
  explicit KiviKeys(const AffineShape& shape) : block_(shape) {}
  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return block_.bytes(); }
  [[nodiscard]] CodecTraits traits() const noexcept override { return block_.traits(); }
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override { return block_.expected_error(); }
  /// Scratch: the kernel's, then logits that are added.
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    return {.encode = block_.encode_scratch(),
            .prepared = n * query_floats() * sizeof(float),
            .scratch = kernels::AffineScoreScratchBytes(n, shape().dim) + n * shape().tokens * sizeof(float)};
  }
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override { return block_.Encode(args); }
  void Decode(const DecodeArgs& args) const override { block_.Decode(args); }

  /// Steps differ from group to group, so that queries become integers only in Score.
  void Prepare(const PrepareArgs& args) const override {
    auto* prepared = reinterpret_cast<float*>(args.prepared);
    for (std::size_t i = 0; i < args.n; ++i, prepared += query_floats()) {
      std::copy_n(args.queries + i * args.query_stride, shape().dim, prepared);
      std::fill(prepared + shape().dim, prepared + query_floats(), 0.0F);
    }
  }
  void Score(const ScoreArgs& args) const override {
    const std::size_t dim = shape().dim, tokens = shape().tokens;
    auto* own = reinterpret_cast<float*>(args.scratch + kernels::AffineScoreScratchBytes(args.n, dim));
    kernels::ScoreAffine(shape(), {.dim = dim,
                                   .tokens = tokens,
                                   .block = args.block.part[0],
                                   .prepared = args.prepared,
                                   .queries = args.n,
                                   .logits = args.add ? own : args.logits,
                                   .stride = args.add ? tokens : args.stride,
                                   .scratch = args.scratch,
                                   .next = args.next.data,
                                   .next_bytes = args.next.bytes});
    if (args.add) PutRows(own, args.n, tokens, args.logits, args.stride, true);
  }

 private:
  [[nodiscard]] const AffineShape& shape() const noexcept { return block_.shape(); }
  [[nodiscard]] std::size_t query_floats() const noexcept { return kernels::AffineQueryFloats(shape().dim); }

  KiviBlock block_;
};

class KiviValues final : public ValueCodec {
 public:
  explicit KiviValues(const AffineShape& shape) : block_(shape) {}
  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return block_.bytes(); }
  [[nodiscard]] CodecTraits traits() const noexcept override { return block_.traits(); }
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override { return block_.expected_error(); }
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    return {.encode = block_.encode_scratch(), .scratch = kernels::AffineAccumulateScratchBytes(n, shape().tokens)};
  }
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override { return block_.Encode(args); }
  void Decode(const DecodeArgs& args) const override { block_.Decode(args); }

  [[nodiscard]] std::size_t accumulator_floats(std::size_t) const noexcept override {
    return kernels::AffineSumFloats(shape());
  }
  void Accumulate(const AccumulateArgs& args) const override {
    kernels::AccumulateAffine(shape(), ByteAccumulate(args, shape().dim, shape().tokens));
  }
  void Finish(const FinishArgs& args) const override {
    for (std::size_t i = 0; i < args.n; ++i) {
      const float* acc = args.acc + i * args.acc_stride;
      float* row = args.rows + i * args.row_stride;
      for (std::size_t g = 0; g < shape().groups(); ++g) {
        const float* lanes = acc + shape().dim + g * kernels::kAffineLanes;
        const float of_group = std::accumulate(lanes, lanes + kernels::kAffineLanes, 0.0F);
        const std::size_t begin = g * shape().group, end = std::min(shape().dim, begin + shape().group);
        for (std::size_t d = begin; d < end; ++d) row[d] = (args.add ? row[d] : 0.0F) + (acc[d] + of_group);
      }
    }
  }

 private:
  [[nodiscard]] const AffineShape& shape() const noexcept { return block_.shape(); }

  KiviBlock block_;
};

std::uint32_t Multiple(const Params& params) {
  const auto bits = static_cast<std::uint32_t>(params.Integer(kBits));
  return std::max(16 * kernels::AffineFields(bits), static_cast<std::uint32_t>(params.Integer(kGroup)));  // powers of two
}

Result<AffineShape> ShapeOf(const CodecConfig& config) {
  const std::string where = "kivi layer " + std::to_string(config.layer) + ": ";
  if (config.head_dim < 8 || config.head_dim > 1024 || config.head_dim % 8 != 0) {
    return Error{ErrorCode::kUnsupported,
                 where + "head_dim " + std::to_string(config.head_dim) + " is not a multiple of 8 in 8..1024"};
  }
  const std::uint32_t multiple = Multiple(config.params);
  if (config.block_tokens == 0 || config.block_tokens % multiple != 0) {
    return Error{ErrorCode::kInvalidArgument, where + "block_tokens " + std::to_string(config.block_tokens) +
                                                  " is not a multiple of " + std::to_string(multiple)};
  }
  const auto group = static_cast<std::size_t>(config.params.Integer(kGroup));
  const bool keys = config.side == Side::kKeys;
  return AffineShape{.layout = keys ? LloydLayout::kKeys : LloydLayout::kValues,
                     .bits = static_cast<std::uint32_t>(config.params.Integer(kBits)),
                     .group = keys ? group : std::min<std::size_t>(group, config.head_dim),
                     .dim = config.head_dim,
                     .tokens = config.block_tokens};
}

Result<std::unique_ptr<KeyCodec>> MakeKiviKeys(const CodecConfig& config) {
  const auto shape = ShapeOf(config);
  if (!shape) return shape.error();
  return std::unique_ptr<KeyCodec>(std::make_unique<KiviKeys>(*shape));
}

Result<std::unique_ptr<ValueCodec>> MakeKiviValues(const CodecConfig& config) {
  const auto shape = ShapeOf(config);
  if (!shape) return shape.error();
  return std::unique_ptr<ValueCodec>(std::make_unique<KiviValues>(*shape));
}

constexpr std::int64_t kBitChoices[] = {1, 2, 3, 4, 5, 6, 7, 8};
constexpr std::int64_t kGroupChoices[] = {32, 64, 128};

constexpr ParamSpec kParams[] = {
    {.name = "bits",
     .default_value = "4",
     .meaning = "bits per number; 1 is worse than zeros",
     .min = 1,
     .max = 8,
     .allowed = kBitChoices},
    {.name = "group",
     .default_value = "32",
     .meaning = "numbers that share a minimum and a step: tokens of a channel (keys), channels of a token (values)",
     .min = 32,
     .max = 128,
     .allowed = kGroupChoices},
};

}  // namespace

extern const Codec kKivi;

const Codec kKivi{.name = "kivi",
                  .summary = "groups between their minimum and maximum: keys per channel, values per token",
                  .params = kParams,
                  .block_multiple = Multiple,
                  .make_keys = MakeKiviKeys,
                  .make_values = MakeKiviValues};

}  // namespace kvant::quantizers
