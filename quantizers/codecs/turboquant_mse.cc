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
#include "quantizers/codebook.h"
#include "quantizers/codec.h"
#include "quantizers/rotation.h"

namespace kvant::quantizers {
namespace {

using kernels::kLanes;
using kernels::LloydLayout;
using kernels::LloydScale;

constexpr std::string_view kName = "turboquant_mse";
constexpr std::uint32_t kVersion = 2;

static_assert(kernels::LloydBlockBytes(4, 128, 128) == 8448 && kernels::LloydBlockBytes(2, 128, 128) == 4352 &&
              kernels::LloydBlockBytes(3, 128, 128) == 6400 && kernels::LloydBlockBytes(4, 80, 64) == 64 * 40 + 128);

enum Param : std::size_t { kBits, kCenter, kScale };

LloydScale ScaleOf(Side side, std::span<const std::int64_t> params) {
  if (params[kScale] != 0) return static_cast<LloydScale>(params[kScale]);
  return side == Side::kKeys ? LloydScale::kUnbiased : LloydScale::kLeastSquares;
}

const kernels::LloydTable& TableOf(std::span<const std::int64_t> params) {
  return *kernels::FindLloydTable(static_cast<std::uint32_t>(params[kBits]));
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
    const auto multiple = kernels::LloydBlockMultiple(static_cast<std::uint32_t>(config.params[kBits]));
    if (config.block_tokens == 0 || config.block_tokens % multiple != 0) {
      return Error{ErrorCode::kInvalidArgument, where + "block_tokens " + std::to_string(config.block_tokens) +
                                                    " is not a multiple of " + std::to_string(multiple) +
                                                    ", which bits=" + std::to_string(config.params[kBits]) + " needs"};
    }
    LloydBlocks blocks;
    blocks.side_ = config.side;
    blocks.dim_ = config.head_dim;
    blocks.tokens_ = config.block_tokens;
    blocks.table_ = &TableOf(config.params);
    blocks.scale_ = ScaleOf(config.side, config.params);
    if (config.params[kCenter] != 0) {
      if (config.artifact == nullptr) {
        return Error{ErrorCode::kInvalidArgument, where + "center=1 needs means, but the plan has no artifact"};
      }
      const std::string tensor =
          "layers." + std::to_string(config.layer) + (config.side == Side::kKeys ? ".keys.mean" : ".values.mean");
      auto means = config.artifact->Find(tensor, config.kv_heads, config.head_dim);
      if (!means) return Error{means.error().code, where + "center=1: " + means.error().message};
      blocks.means_ = *means;
    }
    for (std::uint32_t head = 0; head < config.kv_heads; ++head) {
      const RotationKey key{kName, kVersion, config.model, config.layer, head, config.side};
      blocks.rotations_.emplace_back(config.head_dim, RotationRounds(config.head_dim), RotationSeed(key));
    }
    return blocks;
  }

  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] std::size_t tokens() const noexcept { return tokens_; }
  [[nodiscard]] const kernels::LloydTable& table() const noexcept { return *table_; }
  [[nodiscard]] const Rotation& rotation(std::size_t head) const { return rotations_[head]; }
  /// [head_dim], or null without centring.
  [[nodiscard]] const float* mean(std::size_t head) const noexcept {
    return means_.empty() ? nullptr : means_.data() + head * dim_;
  }
  [[nodiscard]] std::size_t block_bytes() const noexcept { return kernels::LloydBlockBytes(table_->bits, dim_, tokens_); }

  [[nodiscard]] Result<void> Encode(std::size_t head, const RowsView& rows, std::byte* block) const {
    const Rotation& rotation = rotations_[head];
    const kernels::LloydEncoding how{.table = table_,
                                     .shape = rotation.shape(),
                                     .rounds = rotation.rounds(),
                                     .signs = rotation.signs(),
                                     .mean = mean(head),
                                     .layout = layout(),
                                     .scale = scale_};
    alignas(64) std::byte scratch[kernels::LloydEncodeScratchBytes(kernels::kMaxHeadDim)];
    const std::size_t row = kernels::LloydEncode(how, rows, reinterpret_cast<std::uint8_t*>(block), scratch);
    if (row == rows.count) return {};
    return Error{ErrorCode::kNotFinite, "encode as " + std::string(kName) + ": row " + std::to_string(row) + " of KV head " +
                                            std::to_string(head) + " holds NaN or infinity, or its norm exceeds 8.5e9"};
  }

  void Decode(std::size_t head, const std::byte* block, std::size_t begin, std::size_t end, float* rows) const {
    const auto* codes = reinterpret_cast<const std::uint8_t*>(block);
    const std::byte* scales = block + kernels::LloydCodesBytes(table_->bits, dim_, tokens_);
    for (std::size_t token = begin; token < end; ++token) {
      std::uint16_t bits;
      std::memcpy(&bits, scales + token * sizeof(bits), sizeof(bits));
      const float scale = kernels::Ufloat16ToFloat(bits);
      alignas(64) float row[kernels::kMaxHeadDim];
      for (std::size_t i = 0; i < dim_; ++i) {
        const auto index = kernels::LloydIndexAt(layout(), table_->bits, dim_, tokens_, codes, token, i);
        row[i] = static_cast<float>(table_->Centroid(index)) * scale;
      }
      const float one = 1.0f;
      Unrotate(head, row, dim_, 1, &one, rows + (token - begin) * dim_);
    }
  }

  /// n rows in codebook units, row i at from + i * stride -> rows [n, dim]; row i gets mean * mean_weights[i] added.
  void Unrotate(std::size_t head, const float* from, std::size_t stride, std::size_t n, const float* mean_weights,
                float* rows) const {
    const Rotation& rotation = rotations_[head];
    const auto factor = static_cast<float>(
        1.0 / (rotation.shape().gain(rotation.rounds()) * table_->unit * std::sqrt(static_cast<double>(dim_))));
    alignas(64) std::byte scratch[kernels::RotationScratchBytes(kernels::kMaxHeadDim)];
    kernels::Unrotate({rotation.map(), factor, mean(head), mean_weights, from, stride, n, rows, scratch});
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
  std::vector<Rotation> rotations_;
};

class LloydKeys final : public KeyCodec {
 public:
  explicit LloydKeys(LloydBlocks blocks) : blocks_(std::move(blocks)) {}

  [[nodiscard]] std::size_t block_bytes() const noexcept override { return blocks_.block_bytes(); }
  [[nodiscard]] Result<void> Encode(std::size_t head, std::uint64_t, const RowsView& rows, std::byte* block) const override {
    return blocks_.Encode(head, rows, block);
  }
  void Decode(std::size_t head, std::uint64_t, const std::byte* block, std::size_t begin, std::size_t end,
              float* rows) const override {
    blocks_.Decode(head, block, begin, end, rows);
  }
  [[nodiscard]] std::size_t prepared_bytes(std::size_t n) const noexcept override {
    return (n + kLanes - 1) / kLanes * kernels::LloydQueryBatchBytes(blocks_.table().bits, blocks_.dim());
  }
  void PrepareQueries(std::size_t head, const float* queries, std::size_t n, std::byte* prepared) const override {
    alignas(64) std::byte scratch[kernels::RotationScratchBytes(kernels::kMaxHeadDim)];
    kernels::LloydPrepareQueries({&blocks_.table(), blocks_.rotation(head).map(), blocks_.mean(head)}, queries, n, prepared,
                                 scratch);
  }
  void Score(std::size_t, std::uint64_t, const std::byte* prepared, std::size_t n, const std::byte* block, float* logits,
             std::size_t stride, const std::byte* next, std::size_t next_bytes) const override {
    alignas(64) std::byte scratch[kernels::ByteScoreScratchBytes(kMaxQueries, kernels::kMaxTileDim)];
    kernels::LloydScore(blocks_.table(), {.dim = blocks_.dim(),
                                          .tokens = blocks_.tokens(),
                                          .block = block,
                                          .prepared = prepared,
                                          .queries = n,
                                          .logits = logits,
                                          .stride = stride,
                                          .scratch = scratch,
                                          .next = next,
                                          .next_bytes = next_bytes});
  }

 private:
  LloydBlocks blocks_;
};

class LloydValues final : public ValueCodec {
 public:
  explicit LloydValues(LloydBlocks blocks) : blocks_(std::move(blocks)) {}

  [[nodiscard]] std::size_t block_bytes() const noexcept override { return blocks_.block_bytes(); }
  [[nodiscard]] Result<void> Encode(std::size_t head, std::uint64_t, const RowsView& rows, std::byte* block) const override {
    return blocks_.Encode(head, rows, block);
  }
  void Decode(std::size_t head, std::uint64_t, const std::byte* block, std::size_t begin, std::size_t end,
              float* rows) const override {
    blocks_.Decode(head, block, begin, end, rows);
  }
  [[nodiscard]] std::size_t accumulator_floats() const noexcept override { return blocks_.dim(); }
  [[nodiscard]] std::size_t accumulate_scratch_bytes(std::size_t n) const noexcept override {
    return kernels::ByteAccumulateScratchBytes(n);
  }
  void Accumulate(std::size_t, const float* weights, std::size_t stride, std::size_t n, const std::byte* block, float* acc,
                  std::size_t acc_stride, std::byte* scratch, const std::byte* next, std::size_t next_bytes) const override {
    kernels::LloydAccumulate(blocks_.table(), {.dim = blocks_.dim(),
                                               .tokens = blocks_.tokens(),
                                               .block = block,
                                               .weights = weights,
                                               .stride = stride,
                                               .queries = n,
                                               .acc = acc,
                                               .acc_stride = acc_stride,
                                               .scratch = scratch,
                                               .next = next,
                                               .next_bytes = next_bytes});
  }
  void Finish(std::size_t head, const float* acc, std::size_t acc_stride, const float* weight_sums, std::size_t n,
              float* rows) const override {
    blocks_.Unrotate(head, acc, acc_stride, n, weight_sums, rows);
  }

 private:
  LloydBlocks blocks_;
};

template <class Made, class Base>
Result<std::unique_ptr<Base>> MakeSide(const CodecConfig& config) {
  auto blocks = LloydBlocks::Make(config);
  if (!blocks) return std::move(blocks).error();
  return std::unique_ptr<Base>(std::make_unique<Made>(std::move(*blocks)));
}

constexpr std::int64_t kBitChoices[] = {1, 2, 3, 4, 8};
constexpr ParamSpec kParams[] = {
    {.name = "bits", .min = 1, .max = 8, .default_value = 4, .meaning = "bits per code", .allowed = kBitChoices},
    {.name = "center", .min = 0, .max = 1, .default_value = 0, .meaning = "1: subtract the artifact's mean row"},
    {.name = "scale",
     .min = 0,
     .max = 4,
     .default_value = 0,
     .meaning = "0: unbiased for keys, least squares for values; 1: norm; 2: norm kept; 3: least squares; 4: unbiased"},
};

}  // namespace

extern const Codec kTurboQuantMse{
    .name = kName,
    .version = kVersion,
    .summary = "rotated rows in Lloyd-Max codes with one 16-bit scale per row; scored and summed without decoding",
    .params = kParams,
    .block_multiple =
        [](std::span<const std::int64_t> params) {
          return kernels::LloydBlockMultiple(static_cast<std::uint32_t>(params[kBits]));
        },
    .gaussian_error =
        [](Side side, std::uint32_t head_dim, std::span<const std::int64_t> params) {
          return RotatedLloydError(TableOf(params), head_dim, ScaleOf(side, params));
        },
    .make_keys = MakeSide<LloydKeys, KeyCodec>,
    .make_values = MakeSide<LloydValues, ValueCodec>,
};

}  // namespace kvant::quantizers
