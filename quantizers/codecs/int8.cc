// int8: every row rounded to 8-bit integers against its own largest magnitude.
//
// Row x: scale s = max|x| / 127 as ufloat16 (kernels/ufloat16.h), codes c = round(x / s) in [-127, 127], x' = s * c.
// Block: the codes (kernels/int8/int8.h: keys in tiles of 16 tokens, values in quads of 4), block_tokens * head_dim bytes;
// then block_tokens ufloat16 scales. bits per element: 8 + 16 / head_dim.
//
// Rounding the query to 15 bits adds a relative noise of at most d / (12 * 16256^2) to a score's, the weights likewise: below
// 1e-3 of the codes' own.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>

#include "kernels/int8/int8.h"
#include "kernels/raw/rows.h"
#include "kernels/ufloat16.h"
#include "quantizers/byte_codes.h"
#include "quantizers/codec.h"
#include "quantizers/strided_rows.h"

namespace kvant::quantizers {
namespace {

static_assert(kernels::kInt8KeyTile == 16 && kernels::kInt8ValueTile == 4, "tile sizes are part of the stored format");

/// Errors are uniform over a step of max|x| / 127, but for the largest number, whose code is exact:
/// D = (d - 1) / d * E[max^2] / (12 * 127^2), with E[max^2] the integral of 2 x P(max > x) = 2 x (1 - erf(x / sqrt 2)^d).
double UniformError(std::size_t head_dim) {
  constexpr double kStep = 1.0 / 256;
  const auto dim = static_cast<double>(head_dim);
  double expected_max_squared = 0;
  for (double x = kStep / 2; x < 9; x += kStep) {
    expected_max_squared += 2 * x * (1 - std::pow(std::erf(x / std::sqrt(2.0)), dim)) * kStep;
  }
  return (dim - 1.0) / dim * expected_max_squared / (12.0 * 127 * 127);
}

/// What both sides share: sizes, scales, the loop over rows.
class Int8Block {
 public:
  explicit Int8Block(const CodecConfig& config) : dim_(config.head_dim), tokens_(config.block_tokens) {}

  [[nodiscard]] std::size_t bytes() const noexcept { return tokens_ * dim_ + tokens_ * sizeof(std::uint16_t); }
  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] const std::uint16_t* Scales(const std::byte* block) const {
    return reinterpret_cast<const std::uint16_t*>(block + tokens_ * dim_);  // even: head_dim is a multiple of 8
  }
  [[nodiscard]] static CodecTraits traits() noexcept {
    return {.exact_zero = true, .largest_norm = 126.0F * kernels::kUfloat16Max};  // no number of a row exceeds its norm
  }
  [[nodiscard]] CodeForm form(CodeOrder order) const noexcept {
    return {.family = CodeFamily::kScalar,
            .order = order,
            .bits = 8,
            .first_level = -128,
            .scale_format = ScaleFormat::kUfloat16,
            .scale_offset = tokens_ * dim_};
  }

  /// Encodes tiles of kTile rows by `pack(rows, inverse_scales, dim, tile)`. Scratch: a tile of floats.
  template <std::size_t kTile, typename Pack>
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args, Pack pack) const {
    const RowsView& rows = args.rows;
    const auto* src = static_cast<const std::byte*>(rows.data);
    std::byte* block = args.block.part[0];
    auto* scales = reinterpret_cast<std::uint16_t*>(block + tokens_ * dim_);
    auto* tile = reinterpret_cast<float*>(args.scratch);
    float inverse[kTile];
    for (std::size_t first = 0; first < tokens_; first += kTile) {
      for (std::size_t i = 0; i < kTile; ++i) {
        const std::size_t t = first + i;
        const float largest =
            kernels::LoadRow(src + t * rows.stride * ElementBytes(rows.type), rows.type, dim_, tile + i * dim_);
        if (!(largest / 127.0f < kernels::kUfloat16Overflow)) {
          return Error{ErrorCode::kNotFinite,
                       "encode as int8: row " + std::to_string(t) +
                           (std::isfinite(largest) ? " has numbers beyond 1e12" : " holds NaN or infinity")};
        }
        scales[t] = kernels::FloatToUfloat16(largest / 127.0f);
        const float scale = kernels::Ufloat16ToFloat(scales[t]);
        inverse[i] = scale > 0.0f ? 1.0f / scale : 0.0f;
      }
      pack(tile, inverse, dim_, block + first * dim_);
    }
    return {};
  }

  /// Decodes rows whose codes `offset(token, number)` finds.
  template <typename Offset>
  void Decode(const DecodeArgs& args, Offset offset) const {
    const std::byte* block = args.block.part[0];
    for (std::size_t t = args.begin; t < args.end; ++t) {
      const float scale = kernels::Ufloat16ToFloat(Scales(block)[t]);
      float* row = args.rows + (t - args.begin) * args.row_stride;
      for (std::size_t k = 0; k < dim_; ++k) {
        const float number = static_cast<float>(std::to_integer<int>(block[offset(t, k)]) - 128) * scale;
        row[k] = args.add ? row[k] + number : number;
      }
    }
  }

 private:
  std::size_t dim_;
  std::size_t tokens_;
};

class Int8Keys final : public KeyCodec {
 public:
  explicit Int8Keys(const CodecConfig& config) : block_(config) {}
  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return block_.bytes(); }
  [[nodiscard]] CodecTraits traits() const noexcept override { return Int8Block::traits(); }
  [[nodiscard]] CodeForm form() const noexcept override { return block_.form(CodeOrder::kKeyTiles); }
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override { return UniformError(block_.dim()); }

  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    return {.encode = kernels::kInt8KeyTile * block_.dim() * sizeof(float),
            .prepared = kernels::Int8PreparedBytes(n, block_.dim()),
            .scratch = ByteCodesScoreScratch(n, block_.dim(), block_.tokens())};
  }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override {
    return block_.Encode<kernels::kInt8KeyTile>(args, kernels::PackInt8Keys);
  }
  void Decode(const DecodeArgs& args) const override {
    block_.Decode(args, [dim = block_.dim()](std::size_t t, std::size_t k) {
      return t / 16 * (16 * dim) + t % 16 * 4 + 64 * (k / 4) + k % 4;
    });
  }

  void Prepare(const PrepareArgs& args) const override {
    auto* rows = reinterpret_cast<kernels::Int16Row*>(args.prepared);
    auto* integers = reinterpret_cast<std::int16_t*>(rows + args.n);
    const std::size_t dim = block_.dim();
    for (std::size_t i = 0; i < args.n; ++i)
      rows[i] = kernels::RoundToInt16(args.queries + i * args.query_stride, dim, integers + i * dim);
  }
  void Score(const ScoreArgs& args) const override { ScoreByteCodes(args, block_.dim(), block_.tokens(), kernels::ScoreInt8); }

 private:
  Int8Block block_;
};

class Int8Values final : public ValueCodec {
 public:
  explicit Int8Values(const CodecConfig& config) : block_(config) {}
  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return block_.bytes(); }
  [[nodiscard]] CodecTraits traits() const noexcept override { return Int8Block::traits(); }
  [[nodiscard]] CodeForm form() const noexcept override { return block_.form(CodeOrder::kValueTiles); }
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override { return UniformError(block_.dim()); }

  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    return {.encode = kernels::kInt8ValueTile * block_.dim() * sizeof(float),
            .scratch = kernels::ByteAccumulateScratchBytes(n, block_.tokens())};
  }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override {
    return block_.Encode<kernels::kInt8ValueTile>(args, kernels::PackInt8Values);
  }
  void Decode(const DecodeArgs& args) const override {
    block_.Decode(args, [dim = block_.dim()](std::size_t t, std::size_t k) { return t / 4 * (4 * dim) + t % 4 + 4 * k; });
  }

  [[nodiscard]] std::size_t accumulator_floats(std::size_t) const noexcept override { return block_.dim(); }
  void Accumulate(const AccumulateArgs& args) const override {
    kernels::AccumulateInt8(ByteAccumulate(args, block_.dim(), block_.tokens()));
  }
  void Finish(const FinishArgs& args) const override {
    for (std::size_t i = 0; i < args.n; ++i) {
      PutRows(args.acc + i * args.acc_stride, 1, block_.dim(), args.rows + i * args.row_stride, args.row_stride, args.add);
    }
  }

 private:
  Int8Block block_;
};

Result<std::unique_ptr<KeyCodec>> MakeInt8Keys(const CodecConfig& config) {
  return std::unique_ptr<KeyCodec>(std::make_unique<Int8Keys>(config));
}

Result<std::unique_ptr<ValueCodec>> MakeInt8Values(const CodecConfig& config) {
  return std::unique_ptr<ValueCodec>(std::make_unique<Int8Values>(config));
}

std::uint32_t WholeTiles(const Params&) { return kernels::kInt8KeyTile; }

}  // namespace

extern const Codec kInt8;

const Codec kInt8{.name = "int8",
                  .summary = "8-bit integers, one scale per row",
                  .params = {},
                  .block_multiple = WholeTiles,
                  .make_keys = MakeInt8Keys,
                  .make_values = MakeInt8Values};

}  // namespace kvant::quantizers
