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

namespace kvant::quantizers {
namespace {

/// What both sides of a raw codec do.
class RawBlock {
 public:
  RawBlock(ElementType type, const CodecConfig& config) : type_(type), dim_(config.head_dim), tokens_(config.block_tokens) {}

  [[nodiscard]] std::size_t block_bytes() const noexcept { return tokens_ * dim_ * ElementBytes(type_); }
  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }

  [[nodiscard]] Result<void> Encode(const RowsView& rows, std::byte* block) const {
    const std::size_t row_bytes = dim_ * ElementBytes(type_);
    const float limit = kernels::LargestStorable(type_);
    const auto* src = static_cast<const std::byte*>(rows.data);
    for (std::size_t t = 0; t < tokens_; ++t) {
      const std::byte* row = src + t * rows.stride * ElementBytes(rows.type);
      const float largest = kernels::CopyRow(row, rows.type, dim_, type_, block + t * row_bytes);
      if (!(largest <= limit)) {
        return Error{ErrorCode::kNotFinite,
                     "encode as " + std::string(ElementTypeName(type_)) + ": row " + std::to_string(t) +
                         (std::isfinite(largest) ? " exceeds the type's range" : " holds NaN or infinity")};
      }
    }
    return {};
  }

  void Decode(const std::byte* block, std::size_t begin, std::size_t end, float* rows) const {
    kernels::LoadRow(block + begin * dim_ * ElementBytes(type_), type_, (end - begin) * dim_, rows);
  }

  [[nodiscard]] RowsView View(const std::byte* block) const { return {block, type_, tokens_, dim_, dim_}; }

 private:
  ElementType type_;
  std::size_t dim_;
  std::size_t tokens_;
};

class RawKeys final : public KeyCodec {
 public:
  RawKeys(ElementType type, const CodecConfig& config) : raw_(type, config) {}
  [[nodiscard]] std::size_t block_bytes() const noexcept override { return raw_.block_bytes(); }
  [[nodiscard]] Result<void> Encode(std::size_t, std::uint64_t, const RowsView& rows, std::byte* block) const override {
    return raw_.Encode(rows, block);
  }
  void Decode(std::size_t, std::uint64_t, const std::byte* block, std::size_t begin, std::size_t end,
              float* rows) const override {
    raw_.Decode(block, begin, end, rows);
  }
  [[nodiscard]] std::size_t prepared_bytes(std::size_t n) const noexcept override { return n * raw_.dim() * sizeof(float); }
  void PrepareQueries(std::size_t, const float* queries, std::size_t n, std::byte* prepared) const override {
    std::copy_n(reinterpret_cast<const std::byte*>(queries), prepared_bytes(n), prepared);
  }
  void Score(std::size_t, std::uint64_t, const std::byte* prepared, std::size_t n, const std::byte* block, float* logits,
             std::size_t stride, const std::byte* next, std::size_t next_bytes) const override {
    kernels::DotRows(reinterpret_cast<const float*>(prepared), n, raw_.View(block), logits, stride, next, next_bytes);
  }

 private:
  RawBlock raw_;
};

class RawValues final : public ValueCodec {
 public:
  RawValues(ElementType type, const CodecConfig& config) : raw_(type, config) {}
  [[nodiscard]] std::size_t block_bytes() const noexcept override { return raw_.block_bytes(); }
  [[nodiscard]] Result<void> Encode(std::size_t, std::uint64_t, const RowsView& rows, std::byte* block) const override {
    return raw_.Encode(rows, block);
  }
  void Decode(std::size_t, std::uint64_t, const std::byte* block, std::size_t begin, std::size_t end,
              float* rows) const override {
    raw_.Decode(block, begin, end, rows);
  }
  [[nodiscard]] std::size_t accumulator_floats() const noexcept override { return raw_.dim(); }
  [[nodiscard]] std::size_t accumulate_scratch_bytes(std::size_t) const noexcept override { return 0; }
  void Accumulate(std::size_t, const float* weights, std::size_t stride, std::size_t n, const std::byte* block, float* acc,
                  std::size_t acc_stride, std::byte* /*scratch*/, const std::byte* next,
                  std::size_t next_bytes) const override {
    kernels::WeightedSumRows(weights, stride, n, raw_.View(block), acc, acc_stride, next, next_bytes);
  }
  void Finish(std::size_t, const float* acc, std::size_t acc_stride, const float* /*weight_sums*/, std::size_t n,
              float* rows) const override {
    for (std::size_t i = 0; i < n; ++i) std::copy_n(acc + i * acc_stride, raw_.dim(), rows + i * raw_.dim());
  }

 private:
  RawBlock raw_;
};

template <ElementType kType>
Result<std::unique_ptr<KeyCodec>> MakeKeys(const CodecConfig& config) {
  return std::unique_ptr<KeyCodec>(std::make_unique<RawKeys>(kType, config));
}

template <ElementType kType>
Result<std::unique_ptr<ValueCodec>> MakeValues(const CodecConfig& config) {
  return std::unique_ptr<ValueCodec>(std::make_unique<RawValues>(kType, config));
}

std::uint32_t AnyBlock(std::span<const std::int64_t>) { return 1; }

double NoError(Side, std::uint32_t, std::span<const std::int64_t>) { return 0.0; }

/// Rounding to `kMantissa` explicit bits: in the binade [2^e, 2^(e+1)) the error is uniform over a step of 2^(e - kMantissa),
/// so D = sum over e of P(2^e <= |x| < 2^(e+1)) * 4^(e - kMantissa) / 12 for x of N(0,1).
template <int kMantissa>
double RoundingError(Side, std::uint32_t, std::span<const std::int64_t>) {
  double sum = 0;
  for (int e = -12; e < 4; ++e) {
    const double mass = std::erf(std::ldexp(1.0, e + 1) / std::sqrt(2.0)) - std::erf(std::ldexp(1.0, e) / std::sqrt(2.0));
    sum += mass * std::ldexp(1.0, 2 * (e - kMantissa)) / 12;
  }
  return sum;
}

}  // namespace

extern const Codec kF32;
extern const Codec kF16;
extern const Codec kBF16;

const Codec kF32{.name = "f32",
                 .summary = "raw 32-bit floats: exact, 4 bytes per number",
                 .params = {},
                 .block_multiple = AnyBlock,
                 .gaussian_error = NoError,
                 .make_keys = MakeKeys<ElementType::kF32>,
                 .make_values = MakeValues<ElementType::kF32>};

const Codec kF16{.name = "f16",
                 .summary = "raw IEEE half floats: 11 significant bits, magnitudes up to 65504",
                 .params = {},
                 .block_multiple = AnyBlock,
                 .gaussian_error = RoundingError<10>,
                 .make_keys = MakeKeys<ElementType::kF16>,
                 .make_values = MakeValues<ElementType::kF16>};

const Codec kBF16{.name = "bf16",
                  .summary = "raw bfloat16: 8 significant bits, the range of f32",
                  .params = {},
                  .block_multiple = AnyBlock,
                  .gaussian_error = RoundingError<7>,
                  .make_keys = MakeKeys<ElementType::kBF16>,
                  .make_values = MakeValues<ElementType::kBF16>};

}  // namespace kvant::quantizers
