#include "quantizers/vector_blocks.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/rotation/unrotate.h"
#include "kernels/ufloat16.h"
#include "kernels/vector/attend.h"
#include "kernels/vector/query.h"
#include "quantizers/byte_codes.h"
#include "quantizers/shared_blocks.h"
#include "quantizers/strided_rows.h"

namespace kvant::quantizers {

using kernels::LloydLayout;
using kernels::LloydScale;

namespace {

LloydLayout LayoutOf(Side side) noexcept { return side == Side::kKeys ? LloydLayout::kKeys : LloydLayout::kValues; }

}  // namespace

Result<VectorBlocks> VectorBlocks::Make(const CodecConfig& config, VectorChoices choices) {
  const std::string where = std::string(choices.name) + " layer " + std::to_string(config.layer) + ": ";
  constexpr std::uint32_t kMultiple = kernels::kVectorDimMultiple;
  if (config.head_dim == 0 || config.head_dim > kernels::kMaxHeadDim || config.head_dim % kMultiple != 0) {
    return Error{ErrorCode::kUnsupported,
                 where + "head_dim " + std::to_string(config.head_dim) + " is not a multiple of 16 in 16..1024"};
  }
  if (config.block_tokens == 0 || config.block_tokens % kernels::kVectorBlockMultiple != 0) {
    return Error{ErrorCode::kInvalidArgument,
                 where + "block_tokens " + std::to_string(config.block_tokens) + " is not a multiple of 16"};
  }
  VectorBlocks blocks;
  blocks.side_ = config.side;
  blocks.dim_ = config.head_dim;
  blocks.tokens_ = config.block_tokens;
  blocks.first_head_ = config.head_begin;
  blocks.rotations_ = HeadRotations(choices.name, choices.version, config);
  blocks.choices_ = std::move(choices);
  return blocks;
}

std::size_t VectorBlocks::bytes() const noexcept { return kernels::VectorBlockBytes(dim_, tokens_); }

std::size_t VectorBlocks::memory_bytes() const noexcept {
  return rotations_.memory_bytes() + choices_.codebooks.capacity() * sizeof(kernels::VectorCodebook);
}

const kernels::VectorCodebook& VectorBlocks::codebook(std::size_t head) const {
  return choices_.codebooks.empty() ? kernels::GaussianCodebook() : choices_.codebooks[head - first_head_];
}

const float* VectorBlocks::smooth(std::size_t head) const noexcept {
  return choices_.smooth.empty() ? nullptr : choices_.smooth.data() + head * dim_;
}

std::size_t VectorBlocks::unrotate_scratch(std::size_t n) const noexcept {
  return kernels::RotationScratchBytes(dim_) + n * row_bytes();
}

CodecTraits VectorBlocks::traits() const noexcept {
  // The stored scale is at most |x| sqrt(dim), and some, for a row whose rotation is a single number; |x| after smoothing.
  float norm = 0.5F * kernels::kUfloat16Max / std::sqrt(static_cast<float>(dim_));
  float least = 1.0F;
  for (const float factor : choices_.smooth) least = std::min(least, factor);
  return {.exact_zero = true, .largest_norm = norm * least};
}

CodeForm VectorBlocks::form() const noexcept {
  return {.family = CodeFamily::kVector,
          .order = side_ == Side::kKeys ? CodeOrder::kKeyTiles : CodeOrder::kValueTiles,
          .bits = 8,
          .level_unit = codebook(first_head_).unit * std::sqrt(static_cast<float>(dim_)),
          .scale_format = ScaleFormat::kUfloat16,
          .scale_offset = kernels::VectorCodesBytes(dim_, tokens_),
          .rotated = true};
}

double VectorBlocks::expected_error() const noexcept {
  // Words are chosen on the sphere, whose numbers have lighter tails than normal ones: first order in 1 / dim, the constant
  // from simulation at 64 to 256 dims.
  constexpr double kSphere = 2.2;
  const double least_squares = choices_.normal_error * (1.0 - kSphere / static_cast<double>(dim_));
  const double error = side_ == Side::kValues ? least_squares : least_squares / (1.0 - least_squares);
  if (choices_.smooth.empty()) return error;
  // The error is spread evenly over smoothed dims and then multiplied by their factors.
  double squares = 0.0, inverse = 0.0;
  const float* factors = choices_.smooth.data() + first_head_ * dim_;
  const std::size_t count = rotations_.count() * dim_;
  for (std::size_t i = 0; i < count; ++i) {
    const double square = static_cast<double>(factors[i]) * factors[i];
    squares += square;
    inverse += 1.0 / square;
  }
  return error * squares * inverse / (static_cast<double>(count) * static_cast<double>(count));
}

Result<void> VectorBlocks::Encode(const EncodeArgs& args) const {
  const kernels::VectorEncoding how{.codebook = &codebook(args.head),
                                    .map = rotation(args.head).map(),
                                    .smooth = smooth(args.head),
                                    .layout = LayoutOf(side_),
                                    .scale = side_ == Side::kKeys ? LloydScale::kUnbiased : LloydScale::kLeastSquares};
  const std::size_t row =
      kernels::VectorEncode(how, args.rows, reinterpret_cast<std::uint8_t*>(args.block.part[0]), args.scratch);
  if (row == args.rows.count) return {};
  return Error{ErrorCode::kNotFinite, "encode as " + std::string(choices_.name) + ": row " + std::to_string(row) +
                                          " of KV head " + std::to_string(args.head) +
                                          " holds NaN or infinity, or its norm exceeds what a scale holds"};
}

void VectorBlocks::Decode(const DecodeArgs& args) const {
  const auto* codes = reinterpret_cast<const std::uint8_t*>(args.block.part[0]);
  const std::byte* scales = args.block.part[0] + kernels::VectorCodesBytes(dim_, tokens_);
  const kernels::VectorCodebook& words = codebook(args.head);
  auto* row = reinterpret_cast<float*>(args.scratch + unrotate_scratch(1));
  for (std::size_t token = args.begin; token < args.end; ++token) {
    std::uint16_t bits;
    std::memcpy(&bits, scales + token * sizeof(bits), sizeof(bits));
    const float scale = kernels::Ufloat16ToFloat(bits);
    for (std::size_t s = 0; s < dim_ / kernels::kVectorDims; ++s) {
      const std::size_t word = codes[kernels::VectorCodeAt(LayoutOf(side_), dim_, token, s)];
      for (std::size_t j = 0; j < kernels::kVectorDims; ++j) {
        row[s * kernels::kVectorDims + j] = static_cast<float>(words.numbers[j][word]) * scale;
      }
    }
    Unrotate({.head = args.head,
              .from = row,
              .from_stride = dim_,
              .n = 1,
              .rows = args.rows + (token - args.begin) * args.row_stride,
              .row_stride = args.row_stride,
              .add = args.add,
              .scratch = args.scratch});
  }
}

void VectorBlocks::Unrotate(const Unrotated& args) const {
  const Rotation& map = rotation(args.head);
  const auto factor = static_cast<float>(
      1.0 / (map.shape().gain(map.rounds()) * codebook(args.head).unit * std::sqrt(static_cast<double>(dim_))));
  float* target = RowsTarget(args.rows, args.row_stride, args.n, dim_, args.add,
                             reinterpret_cast<float*>(args.scratch + kernels::RotationScratchBytes(dim_)));
  kernels::Unrotate({.map = map.map(),
                     .factor = factor,
                     .from = args.from,
                     .stride = args.from_stride,
                     .n = args.n,
                     .rows = target,
                     .scratch = args.scratch});
  if (const float* factors = smooth(args.head)) {
    for (std::size_t i = 0; i < args.n * dim_; ++i) target[i] *= factors[i % dim_];
  }
  PutRows(target, args.n, dim_, args.rows, args.row_stride, args.add);
}

namespace {

class VectorKeys final : public OfSharedBlocks<KeyCodec, VectorBlocks> {
 public:
  explicit VectorKeys(VectorBlocks blocks) : OfSharedBlocks(std::move(blocks)) {}

  /// Scratch: of the rotation and of queries that are not taken where they lie; or Score's.
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    return {.encode = blocks_.encode_scratch(),
            .decode = blocks_.decode_scratch(),
            .prepared = kernels::VectorPreparedBytes(n, blocks_.dim()),
            .scratch = std::max(blocks_.unrotate_scratch(n), ByteCodesScoreScratch(n, blocks_.dim(), blocks_.tokens()))};
  }

  void Prepare(const PrepareArgs& args) const override {
    const std::size_t dim = blocks_.dim();
    auto* own = reinterpret_cast<float*>(args.scratch + kernels::RotationScratchBytes(dim));
    const float* queries = own;
    if (const float* factors = blocks_.smooth(args.head)) {
      for (std::size_t i = 0; i < args.n; ++i) {
        for (std::size_t d = 0; d < dim; ++d) own[i * dim + d] = args.queries[i * args.query_stride + d] * factors[d];
      }
    } else {
      queries = AdjacentRows(args.queries, args.query_stride, args.n, dim, own);
    }
    kernels::VectorPrepareQueries(blocks_.codebook(args.head), blocks_.rotation(args.head).map(), queries, args.n,
                                  args.prepared, args.scratch);
  }
  void Score(const ScoreArgs& args) const override {
    const kernels::VectorCodebook& codebook = blocks_.codebook(args.head);
    ScoreByteCodes(args, blocks_.dim(), blocks_.tokens(),
                   [&](const kernels::ByteScoreArgs& bytes) { kernels::VectorScore(codebook, bytes); });
  }
};

class VectorValues final : public OfSharedBlocks<ValueCodec, VectorBlocks> {
 public:
  explicit VectorValues(VectorBlocks blocks) : OfSharedBlocks(std::move(blocks)) {}

  /// Scratch: the kernel's of Accumulate; or Finish's rows in the order of dims, and rows that are not simply overwritten.
  [[nodiscard]] Needs needs(std::size_t n) const noexcept override {
    const std::size_t finish = blocks_.unrotate_scratch(n) + n * blocks_.row_bytes();
    return {.encode = blocks_.encode_scratch(),
            .decode = blocks_.decode_scratch(),
            .scratch = std::max(kernels::ByteAccumulateScratchBytes(n), finish)};
  }

  [[nodiscard]] std::size_t accumulator_floats(std::size_t) const noexcept override {
    return kernels::VectorAccumulatorFloats(blocks_.dim());
  }
  void Accumulate(const AccumulateArgs& args) const override {
    kernels::VectorAccumulate(blocks_.codebook(args.head), ByteAccumulate(args, blocks_.dim(), blocks_.tokens()));
  }
  void Finish(const FinishArgs& args) const override {
    const std::size_t dim = blocks_.dim();
    auto* ordered = reinterpret_cast<float*>(args.scratch + blocks_.unrotate_scratch(args.n));
    for (std::size_t i = 0; i < args.n; ++i) {
      kernels::VectorSumsInOrder(args.acc + i * args.acc_stride, dim, ordered + i * dim);
    }
    blocks_.Unrotate({.head = args.head,
                      .from = ordered,
                      .from_stride = dim,
                      .n = args.n,
                      .rows = args.rows,
                      .row_stride = args.row_stride,
                      .add = args.add,
                      .scratch = args.scratch});
  }
};

}  // namespace

Result<std::unique_ptr<KeyCodec>> MakeVectorKeys(const CodecConfig& config, VectorChoices choices) {
  auto blocks = VectorBlocks::Make(config, std::move(choices));
  if (!blocks) return std::move(blocks).error();
  return std::unique_ptr<KeyCodec>(std::make_unique<VectorKeys>(*std::move(blocks)));
}

Result<std::unique_ptr<ValueCodec>> MakeVectorValues(const CodecConfig& config, VectorChoices choices) {
  auto blocks = VectorBlocks::Make(config, std::move(choices));
  if (!blocks) return std::move(blocks).error();
  return std::unique_ptr<ValueCodec>(std::make_unique<VectorValues>(*std::move(blocks)));
}

}  // namespace kvant::quantizers
