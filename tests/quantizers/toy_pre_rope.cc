// Block: block_tokens rows of head_dim bf16 numbers, before RoPE.
#include <cmath>

#include "kernels/raw/rows.h"
#include "kernels/rope.h"
#include "tests/quantizers/toy_arithmetic.h"
#include "tests/quantizers/toy_codecs.h"

namespace kvant::quantizers::test {
namespace {

constexpr std::size_t kRowsAtOnce = 16;

/// Uniform error of 2^(e - 7) within a binade [2^e, 2^(e+1)): a relative step between 2^-8 and 2^-7; the mean over mantissas of
/// N(0,1) by sampling the density.
double RoundingError() {
  constexpr double kStep = 1e-3;
  double error = 0;
  for (double x = kStep / 2; x < 8; x += kStep) {
    const double density = 2 * std::exp(-x * x / 2) / std::sqrt(2 * std::acos(-1.0));
    error += density * kStep * std::pow(std::exp2(std::floor(std::log2(x)) - 7), 2) / 12;
  }
  return error;
}

class PreRopeKeys final : public KeyCodec {
 public:
  explicit PreRopeKeys(const CodecConfig& config)
      : dim_(config.head_dim), tokens_(config.block_tokens), rope_(config.rope, config.head_dim) {}
  [[nodiscard]] std::size_t part_bytes(std::size_t) const noexcept override { return tokens_ * dim_ * 2; }
  [[nodiscard]] bool pre_rope() const noexcept override { return true; }
  [[nodiscard]] CodecTraits traits() const noexcept override {
    return {.largest_norm = kernels::LargestStorable(ElementType::kBF16)};
  }
  [[nodiscard]] std::optional<double> expected_error(std::size_t) const override { return RoundingError(); }
  // Decode and encode: a row. Score: rows that are turned together.
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    const std::size_t row = dim_ * sizeof(float);
    return {.encode = row, .decode = row, .prepared = n * row, .scratch = kRowsAtOnce * row};
  }

  [[nodiscard]] Result<void> Encode(const EncodeArgs& args) const override {
    auto* row = reinterpret_cast<float*>(args.scratch);
    for (std::size_t t = 0; t < tokens_; ++t) {
      if (!(LoadRowOf(args.rows, t, row) <= kernels::LargestStorable(ElementType::kBF16))) {
        return Error{ErrorCode::kNotFinite, "row " + std::to_string(t) + " is not finite"};
      }
      kernels::StoreRow(row, dim_, ElementType::kBF16, args.block.part[0] + t * dim_ * 2);
    }
    return {};
  }
  void Decode(const DecodeArgs& args) const override {
    auto* row = reinterpret_cast<float*>(args.scratch);
    for (std::size_t t = args.begin; t < args.end; ++t) {
      Load(args.block, t, 1, row);
      float* out = args.rows + (t - args.begin) * args.row_stride;
      for (std::size_t k = 0; k < dim_; ++k) Put(out[k], row[k], args.add);
    }
  }

  void Prepare(const PrepareArgs& args) const override {
    auto* prepared = reinterpret_cast<float*>(args.prepared);
    for (std::size_t i = 0; i < args.n; ++i) std::copy_n(args.queries + i * args.query_stride, dim_, prepared + i * dim_);
  }
  void Score(const ScoreArgs& args) const override {
    auto* rows = reinterpret_cast<float*>(args.scratch);
    const auto* queries = reinterpret_cast<const float*>(args.prepared);
    for (std::size_t first = 0; first < tokens_; first += kRowsAtOnce) {
      Load(args.block, first, kRowsAtOnce, rows);
      rope_.Rotate({.rows = rows, .count = kRowsAtOnce, .first_position = args.first_position + first});
      for (std::size_t i = 0; i < args.n; ++i) {
        for (std::size_t t = 0; t < kRowsAtOnce; ++t)
          Put(args.logits[i * args.stride + first + t], Dot(queries + i * dim_, rows + t * dim_, dim_), args.add);
      }
    }
  }

 private:
  void Load(const ConstBlockView& block, std::size_t first, std::size_t count, float* rows) const {
    kernels::LoadRow(block.part[0] + first * dim_ * 2, ElementType::kBF16, count * dim_, rows);
  }

  std::size_t dim_;
  std::size_t tokens_;
  kernels::Rope rope_;
};

Result<std::unique_ptr<KeyCodec>> MakePreRopeKeys(const CodecConfig& config) {
  if (config.rope.pairing == RopePairing::kNone) {
    return Error{ErrorCode::kInvalidArgument, "codec toy_pre_rope needs the store's rope to have a pairing"};
  }
  return std::unique_ptr<KeyCodec>(std::make_unique<PreRopeKeys>(config));
}

}  // namespace

const Codec kToyPreRope{.name = "toy_pre_rope",
                        .summary = "bf16 keys before RoPE, turned while scoring",
                        .params = {},
                        .make_keys = MakePreRopeKeys};

}  // namespace kvant::quantizers::test
