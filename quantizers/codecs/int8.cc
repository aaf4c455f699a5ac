// int8: every row rounded to 8-bit integers against its own largest magnitude.
//
// Row x: scale s = max|x| / 127 as ufloat16 (kernels/ufloat16.h), codes c = round(x / s) in [-127, 127], x' = s * c.
// Block: the codes (kernels/int8/layout.h: keys in tiles of 16 tokens, values in quads of 4), block_tokens * head_dim bytes;
// then block_tokens ufloat16 scales. bits per element: 8 + 16 / head_dim.
//
// Rounding the query to 15 bits adds a relative noise of at most d / (12 * 16256^2) to a score's, the weights likewise: below
// 1e-3 of the codes' own.
#include <algorithm>
#include <cmath>
#include <memory>
#include <string>

#include "kernels/int8/accumulate.h"
#include "kernels/int8/encode.h"
#include "kernels/int8/int16_rows.h"
#include "kernels/int8/layout.h"
#include "kernels/int8/score.h"
#include "kernels/raw/rows.h"
#include "kernels/ufloat16.h"
#include "quantizers/codec.h"

namespace kvant::quantizers {
namespace {

constexpr std::size_t kMaxDim = 1024;

static_assert(kernels::kInt8KeyTile == 16 && kernels::kInt8ValueTile == 4, "tile sizes are part of the stored format");

/// What both sides share: sizes, scales, the loop over rows.
class Int8Block {
 public:
  explicit Int8Block(const CodecConfig& config) : dim_(config.head_dim), tokens_(config.block_tokens) {}

  [[nodiscard]] std::size_t block_bytes() const noexcept { return tokens_ * dim_ + tokens_ * sizeof(std::uint16_t); }
  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] const std::uint16_t* Scales(const std::byte* block) const {
    return reinterpret_cast<const std::uint16_t*>(block + tokens_ * dim_);  // even: head_dim is a multiple of 8
  }

  /// Encodes tiles of kTile rows by `pack(rows, inverse_scales, dim, tile)`.
  template <std::size_t kTile, typename Pack>
  [[nodiscard]] Result<void> Encode(const RowsView& rows, std::byte* block, Pack pack) const {
    const auto* src = static_cast<const std::byte*>(rows.data);
    auto* scales = reinterpret_cast<std::uint16_t*>(block + tokens_ * dim_);
    float tile[kTile * kMaxDim];
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

  /// The number at `offset` of the codes, times `scale`.
  static float Number(const std::byte* block, std::size_t offset, float scale) {
    return static_cast<float>(std::to_integer<int>(block[offset]) - 128) * scale;
  }

 private:
  std::size_t dim_;
  std::size_t tokens_;
};

class Int8Keys final : public KeyCodec {
 public:
  explicit Int8Keys(const CodecConfig& config) : block_(config) {}
  [[nodiscard]] std::size_t block_bytes() const noexcept override { return block_.block_bytes(); }

  [[nodiscard]] Result<void> Encode(std::size_t, std::uint64_t, const RowsView& rows, std::byte* block) const override {
    return block_.Encode<kernels::kInt8KeyTile>(rows, block, kernels::PackInt8Keys);
  }

  void Decode(std::size_t, std::uint64_t, const std::byte* block, std::size_t begin, std::size_t end,
              float* rows) const override {
    const std::size_t dim = block_.dim();
    for (std::size_t t = begin; t < end; ++t) {
      const float scale = kernels::Ufloat16ToFloat(block_.Scales(block)[t]);
      const std::byte* tile = block + t / 16 * (16 * dim) + t % 16 * 4;
      for (std::size_t k = 0; k < dim; ++k) rows[(t - begin) * dim + k] = Int8Block::Number(tile, 64 * (k / 4) + k % 4, scale);
    }
  }

  // Prepared: n Int16Rows, then n rows of dim integers.
  [[nodiscard]] std::size_t prepared_bytes(std::size_t n) const noexcept override {
    return n * (sizeof(kernels::Int16Row) + block_.dim() * sizeof(std::int16_t));
  }
  void PrepareQueries(std::size_t, const float* queries, std::size_t n, std::byte* prepared) const override {
    auto* rows = reinterpret_cast<kernels::Int16Row*>(prepared);
    auto* integers = reinterpret_cast<std::int16_t*>(rows + n);
    for (std::size_t i = 0; i < n; ++i)
      rows[i] = kernels::RoundToInt16(queries + i * block_.dim(), block_.dim(), integers + i * block_.dim());
  }
  void Score(std::size_t, std::uint64_t, const std::byte* prepared, std::size_t n, const std::byte* block, float* logits,
             std::size_t stride, const std::byte* next, std::size_t next_bytes) const override {
    const auto* rows = reinterpret_cast<const kernels::Int16Row*>(prepared);
    const auto* integers = reinterpret_cast<const std::int16_t*>(rows + n);
    kernels::ScoreInt8(rows, integers, n, block, block_.Scales(block), block_.tokens(), block_.dim(), logits, stride, next,
                       next_bytes);
  }

 private:
  Int8Block block_;
};

class Int8Values final : public ValueCodec {
 public:
  explicit Int8Values(const CodecConfig& config) : block_(config) {}
  [[nodiscard]] std::size_t block_bytes() const noexcept override { return block_.block_bytes(); }

  [[nodiscard]] Result<void> Encode(std::size_t, std::uint64_t, const RowsView& rows, std::byte* block) const override {
    return block_.Encode<kernels::kInt8ValueTile>(rows, block, kernels::PackInt8Values);
  }

  void Decode(std::size_t, std::uint64_t, const std::byte* block, std::size_t begin, std::size_t end,
              float* rows) const override {
    const std::size_t dim = block_.dim();
    for (std::size_t t = begin; t < end; ++t) {
      const float scale = kernels::Ufloat16ToFloat(block_.Scales(block)[t]);
      const std::byte* quad = block + t / 4 * (4 * dim) + t % 4;
      for (std::size_t k = 0; k < dim; ++k) rows[(t - begin) * dim + k] = Int8Block::Number(quad, 4 * k, scale);
    }
  }

  [[nodiscard]] std::size_t accumulator_floats() const noexcept override { return block_.dim(); }

  // Scratch: n Int16Rows, the scales as floats, n rows of integers.
  [[nodiscard]] std::size_t accumulate_scratch_bytes(std::size_t n) const noexcept override {
    return n * sizeof(kernels::Int16Row) + block_.tokens() * (sizeof(float) + n * sizeof(std::int16_t));
  }
  void Accumulate(std::size_t, const float* weights, std::size_t stride, std::size_t n, const std::byte* block, float* acc,
                  std::size_t acc_stride, std::byte* scratch, const std::byte* next, std::size_t next_bytes) const override {
    const std::size_t tokens = block_.tokens();
    auto* rows = reinterpret_cast<kernels::Int16Row*>(scratch);
    auto* numbers = reinterpret_cast<float*>(rows + n);
    auto* integers = reinterpret_cast<std::int16_t*>(numbers + tokens);
    kernels::RoundWeights(weights, stride, n, block_.Scales(block), tokens, numbers, rows, integers);
    if (std::none_of(rows, rows + n, [](const kernels::Int16Row& row) { return row.step > 0.0f; })) return;
    kernels::AccumulateInt8(rows, integers, n, block, tokens, block_.dim(), acc, acc_stride, next, next_bytes);
  }
  void Finish(std::size_t, const float* acc, std::size_t acc_stride, const float* /*weight_sums*/, std::size_t n,
              float* rows) const override {
    for (std::size_t i = 0; i < n; ++i) std::copy_n(acc + i * acc_stride, block_.dim(), rows + i * block_.dim());
  }

 private:
  Int8Block block_;
};

Result<std::unique_ptr<KeyCodec>> MakeKeys(const CodecConfig& config) {
  return std::unique_ptr<KeyCodec>(std::make_unique<Int8Keys>(config));
}

Result<std::unique_ptr<ValueCodec>> MakeValues(const CodecConfig& config) {
  return std::unique_ptr<ValueCodec>(std::make_unique<Int8Values>(config));
}

std::uint32_t WholeTiles(std::span<const std::int64_t>) { return kernels::kInt8KeyTile; }

/// Errors are uniform over a step of max|x| / 127, but for the largest number, whose code is exact:
/// D = (d - 1) / d * E[max^2] / (12 * 127^2), with E[max^2] the integral of 2 x P(max > x) = 2 x (1 - erf(x / sqrt 2)^d).
double UniformError(Side, std::uint32_t head_dim, std::span<const std::int64_t>) {
  constexpr double kStep = 1.0 / 256;
  double expected_max_squared = 0;
  for (double x = kStep / 2; x < 9; x += kStep) {
    expected_max_squared += 2 * x * (1 - std::pow(std::erf(x / std::sqrt(2.0)), head_dim)) * kStep;
  }
  return (head_dim - 1.0) / head_dim * expected_max_squared / (12.0 * 127 * 127);
}

}  // namespace

extern const Codec kInt8;

const Codec kInt8{.name = "int8",
                  .summary = "8-bit integers, one scale per row",
                  .params = {},
                  .block_multiple = WholeTiles,
                  .gaussian_error = UniformError,
                  .make_keys = MakeKeys,
                  .make_values = MakeValues};

}  // namespace kvant::quantizers
