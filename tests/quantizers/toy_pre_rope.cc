// Block: block_tokens rows of head_dim bf16 numbers, before RoPE.
#include <cmath>
#include <cstring>

#include "kernels/raw/rows.h"
#include "kernels/rope.h"
#include "tests/quantizers/toy_codecs.h"

namespace kvant::quantizers::test {
namespace {

constexpr std::size_t kMaxDim = 1024;
constexpr std::size_t kRowsAtOnce = 16;

class PreRopeKeys final : public KeyCodec {
 public:
  explicit PreRopeKeys(const CodecConfig& config)
      : dim_(config.head_dim), tokens_(config.block_tokens), rope_(config.rope, config.head_dim) {}
  [[nodiscard]] std::size_t block_bytes() const noexcept override { return tokens_ * dim_ * 2; }
  [[nodiscard]] bool pre_rope() const noexcept override { return true; }

  [[nodiscard]] Result<void> Encode(std::size_t, std::uint64_t, const RowsView& rows, std::byte* block) const override {
    float row[kMaxDim];
    for (std::size_t t = 0; t < tokens_; ++t) {
      const auto* src = static_cast<const std::byte*>(rows.data) + t * rows.stride * ElementBytes(rows.type);
      if (!(kernels::LoadRow(src, rows.type, dim_, row) <= kernels::LargestStorable(ElementType::kBF16))) {
        return Error{ErrorCode::kNotFinite, "row " + std::to_string(t) + " is not finite"};
      }
      kernels::StoreRow(row, dim_, ElementType::kBF16, block + t * dim_ * 2);
    }
    return {};
  }
  void Decode(std::size_t, std::uint64_t, const std::byte* block, std::size_t begin, std::size_t end,
              float* rows) const override {
    kernels::LoadRow(block + begin * dim_ * 2, ElementType::kBF16, (end - begin) * dim_, rows);
  }

  [[nodiscard]] std::size_t prepared_bytes(std::size_t n) const noexcept override { return n * dim_ * sizeof(float); }
  void PrepareQueries(std::size_t, const float* queries, std::size_t n, std::byte* prepared) const override {
    std::memcpy(prepared, queries, prepared_bytes(n));
  }
  void Score(std::size_t head, std::uint64_t first_position, const std::byte* prepared, std::size_t n, const std::byte* block,
             float* logits, std::size_t stride, const std::byte*, std::size_t) const override {
    float rows[kRowsAtOnce * kMaxDim];
    const auto* queries = reinterpret_cast<const float*>(prepared);
    for (std::size_t first = 0; first < tokens_; first += kRowsAtOnce) {
      Decode(head, first_position, block, first, first + kRowsAtOnce, rows);
      rope_.Rotate(rows, kRowsAtOnce, first_position + first);
      for (std::size_t i = 0; i < n * kRowsAtOnce; ++i) {
        const std::size_t query = i / kRowsAtOnce;
        const std::size_t t = i % kRowsAtOnce;
        double sum = 0;
        for (std::size_t k = 0; k < dim_; ++k) sum += double{queries[query * dim_ + k]} * double{rows[t * dim_ + k]};
        logits[query * stride + first + t] = static_cast<float>(sum);
      }
    }
  }

 private:
  std::size_t dim_;
  std::size_t tokens_;
  kernels::Rope rope_;
};

Result<std::unique_ptr<KeyCodec>> MakeKeys(const CodecConfig& config) {
  if (config.rope.pairing == RopePairing::kNone) {
    return Error{ErrorCode::kInvalidArgument, "codec toy_pre_rope needs the store's rope to have a pairing"};
  }
  return std::unique_ptr<KeyCodec>(std::make_unique<PreRopeKeys>(config));
}

/// Uniform error of 2^(e - 7) within a binade [2^e, 2^(e+1)): a relative step between 2^-8 and 2^-7; the mean over mantissas of
/// N(0,1) by sampling the density.
double RoundingError(Side, std::uint32_t, std::span<const std::int64_t>) {
  constexpr double kStep = 1e-3;
  double error = 0;
  for (double x = kStep / 2; x < 8; x += kStep) {
    const double density = 2 * std::exp(-x * x / 2) / std::sqrt(2 * std::acos(-1.0));
    error += density * kStep * std::pow(std::exp2(std::floor(std::log2(x)) - 7), 2) / 12;
  }
  return error;
}

}  // namespace

const Codec kToyPreRope{.name = "toy_pre_rope",
                        .summary = "bf16 keys before RoPE, turned while scoring",
                        .params = {},
                        .block_multiple = nullptr,
                        .gaussian_error = RoundingError,
                        .make_keys = MakeKeys,
                        .make_values = nullptr};

}  // namespace kvant::quantizers::test
