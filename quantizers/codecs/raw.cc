// f32, f16 and bf16: rows kept as they are, or rounded to nearest even.
//
// Block: block_tokens rows of head_dim elements, adjacent, little-endian; no side information. bits per element: 32 or 16.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>

#include "kernels/raw/dot.h"
#include "kernels/raw/rows.h"
#include "kernels/raw/weighted_sum.h"
#include "quantizers/codec.h"
#include "quantizers/strided_rows.h"

namespace kvant::quantizers {
namespace {

/// Rounding to `mantissa` explicit bits: in the binade [2^e, 2^(e+1)) the error is uniform over a step of 2^(e - mantissa),
/// so D = sum over e of P(2^e <= |x| < 2^(e+1)) * 4^(e - mantissa) / 12 for x of N(0,1).
double RoundingError(int mantissa) {
  double sum = 0;
  for (int e = -12; e < 4; ++e) {
    const double mass = std::erf(std::ldexp(1.0, e + 1) / std::sqrt(2.0)) - std::erf(std::ldexp(1.0, e) / std::sqrt(2.0));
    sum += mass * std::ldexp(1.0, 2 * (e - mantissa)) / 12;
  }
  return sum;
}

/// What both sides of a raw codec do.
class RawBlock {
 public:
  RawBlock(ElementType type, const CodecConfig& config) : type_(type), dim_(config.head_dim), tokens_(config.block_tokens) {}

  [[nodiscard]] std::size_t bytes() const noexcept { return tokens_ * dim_ * ElementBytes(type_); }
  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] std::size_t row_bytes() const noexcept { return dim_ * sizeof(float); }

  [[nodiscard]] CodecTraits traits() const noexcept {
    return {.exact_zero = true, .largest_norm = kernels::LargestStorable(type_)};
  }
  [[nodiscard]] CodeForm form() const noexcept {
    return {.family = CodeFamily::kRaw, .order = CodeOrder::kRows, .bits = static_cast<std::uint8_t>(8 * ElementBytes(type_))};
  }
  [[nodiscard]] double expected_error() const {
    return type_ == ElementType::kF32 ? 0.0 : RoundingError(type_ == ElementType::kF16 ? 10 : 7);
  }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const {
    const RowsView& rows = args.rows;
    const float limit = kernels::LargestStorable(type_);
    const auto* src = static_cast<const std::byte*>(rows.data);
    for (std::size_t t = 0; t < tokens_; ++t) {
      const std::byte* row = src + t * rows.stride * ElementBytes(rows.type);
      const float largest = kernels::CopyRow(row, rows.type, dim_, type_, args.block.part[0] + t * dim_ * ElementBytes(type_));
      if (!(largest <= limit)) {
        return Error{ErrorCode::kNotFinite,
                     "encode as " + std::string(ElementTypeName(type_)) + ": row " + std::to_string(t) +
                         (std::isfinite(largest) ? " exceeds the type's range" : " holds NaN or infinity")};
      }
    }
    return {};
  }

  void Decode(const DecodeArgs& args) const {
    for (std::size_t t = args.begin; t < args.end; ++t) {
      float* row = args.rows + (t - args.begin) * args.row_stride;
      float* target = args.add ? reinterpret_cast<float*>(args.scratch) : row;
      kernels::LoadRow(args.block.part[0] + t * dim_ * ElementBytes(type_), type_, dim_, target);
      PutRows(target, 1, dim_, row, args.row_stride, args.add);
    }
  }

  [[nodiscard]] RowsView View(const ConstBlockView& block) const { return {block.part[0], type_, tokens_, dim_, dim_}; }

 private:
  ElementType type_;
  std::size_t dim_;
  std::size_t tokens_;
};

class RawKeys final : public KeyCodec {
 public:
  RawKeys(ElementType type, const CodecConfig& config) : raw_(type, config) {}
  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return raw_.bytes(); }
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    return {.decode = raw_.row_bytes(), .prepared = n * raw_.row_bytes(), .scratch = n * raw_.tokens() * sizeof(float)};
  }
  [[nodiscard]] CodecTraits traits() const noexcept override { return raw_.traits(); }
  [[nodiscard]] CodeForm form() const noexcept override { return raw_.form(); }
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override { return raw_.expected_error(); }
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override { return raw_.Encode(args); }
  void Decode(const DecodeArgs& args) const override { raw_.Decode(args); }

  void Prepare(const PrepareArgs& args) const override {
    auto* prepared = reinterpret_cast<float*>(args.prepared);
    for (std::size_t i = 0; i < args.n; ++i) {
      std::copy_n(args.queries + i * args.query_stride, raw_.dim(), prepared + i * raw_.dim());
    }
  }
  void Score(const ScoreArgs& args) const override {
    auto* scratch = reinterpret_cast<float*>(args.scratch);
    float* logits = args.add ? scratch : args.logits;
    const std::size_t stride = args.add ? raw_.tokens() : args.stride;
    kernels::DotRows(reinterpret_cast<const float*>(args.prepared), args.n, raw_.View(args.block), logits, stride,
                     args.next.data, args.next.bytes);
    if (args.add) PutRows(scratch, args.n, raw_.tokens(), args.logits, args.stride, true);
  }

 private:
  RawBlock raw_;
};

class RawValues final : public ValueCodec {
 public:
  RawValues(ElementType type, const CodecConfig& config) : raw_(type, config) {}
  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return raw_.bytes(); }
  [[nodiscard]] Needs needs(std::size_t) const noexcept override { return {.decode = raw_.row_bytes()}; }
  [[nodiscard]] CodecTraits traits() const noexcept override { return raw_.traits(); }
  [[nodiscard]] CodeForm form() const noexcept override { return raw_.form(); }
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override { return raw_.expected_error(); }
  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override { return raw_.Encode(args); }
  void Decode(const DecodeArgs& args) const override { raw_.Decode(args); }

  [[nodiscard]] std::size_t accumulator_floats(std::size_t) const noexcept override { return raw_.dim(); }
  void Accumulate(const AccumulateArgs& args) const override {
    kernels::WeightedSumRows(args.weights, args.stride, args.n, raw_.View(args.block), args.acc, args.acc_stride,
                             args.next.data, args.next.bytes);
  }
  void Finish(const FinishArgs& args) const override {
    for (std::size_t i = 0; i < args.n; ++i) {
      PutRows(args.acc + i * args.acc_stride, 1, raw_.dim(), args.rows + i * args.row_stride, args.row_stride, args.add);
    }
  }

 private:
  RawBlock raw_;
};

template <ElementType kType>
Result<std::unique_ptr<KeyCodec>> MakeRawKeys(const CodecConfig& config) {
  return std::unique_ptr<KeyCodec>(std::make_unique<RawKeys>(kType, config));
}

template <ElementType kType>
Result<std::unique_ptr<ValueCodec>> MakeRawValues(const CodecConfig& config) {
  return std::unique_ptr<ValueCodec>(std::make_unique<RawValues>(kType, config));
}

}  // namespace

extern const Codec kF32;
extern const Codec kF16;
extern const Codec kBF16;

const Codec kF32{.name = "f32",
                 .summary = "raw 32-bit floats: exact, 4 bytes per number",
                 .params = {},
                 .make_keys = MakeRawKeys<ElementType::kF32>,
                 .make_values = MakeRawValues<ElementType::kF32>};

const Codec kF16{.name = "f16",
                 .summary = "raw IEEE half floats: 11 significant bits, magnitudes up to 65504",
                 .params = {},
                 .make_keys = MakeRawKeys<ElementType::kF16>,
                 .make_values = MakeRawValues<ElementType::kF16>};

const Codec kBF16{.name = "bf16",
                  .summary = "raw bfloat16: 8 significant bits, the range of f32",
                  .params = {},
                  .make_keys = MakeRawKeys<ElementType::kBF16>,
                  .make_values = MakeRawValues<ElementType::kBF16>};

}  // namespace kvant::quantizers
