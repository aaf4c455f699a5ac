#include "quantizers/lloyd_blocks.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "kernels/lloyd/query.h"
#include "kernels/ufloat16.h"
#include "quantizers/artifact.h"
#include "quantizers/byte_codes.h"
#include "quantizers/decoded_rows.h"
#include "quantizers/lloyd_error.h"
#include "quantizers/strided_rows.h"

namespace kvant::quantizers {

Result<LloydBlocks> LloydBlocks::Make(const Choice& choice, const CodecConfig& config) {
  const std::string where = std::string(choice.codec.name) + " layer " + std::to_string(config.layer) + ": ";
  if (config.head_dim < 8 || config.head_dim > kernels::kMaxHeadDim || config.head_dim % 8 != 0) {
    return Error{ErrorCode::kUnsupported,
                 where + "head_dim " + std::to_string(config.head_dim) + " is not a multiple of 8 in 8..1024"};
  }
  if (config.block_tokens == 0 || config.block_tokens % choice.block_multiple != 0) {
    return Error{ErrorCode::kInvalidArgument, where + "block_tokens " + std::to_string(config.block_tokens) +
                                                  " is not a multiple of " + std::to_string(choice.block_multiple) +
                                                  ", which bits=" + std::to_string(choice.bits) + " needs"};
  }
  LloydBlocks blocks;
  blocks.name_ = choice.codec.name;
  blocks.side_ = config.side;
  blocks.dim_ = config.head_dim;
  blocks.tokens_ = config.block_tokens;
  blocks.table_ = choice.table != nullptr ? choice.table : kernels::FindLloydTable(choice.bits);
  blocks.scale_ = choice.scale;
  if (!choice.means.empty()) {
    if (config.artifact == nullptr) {
      return Error{ErrorCode::kInvalidArgument, where + "center=1 needs means, but the plan has no artifact"};
    }
    auto means = config.artifact->Find(std::string(choice.means), {config.kv_heads, config.head_dim});
    if (!means) return Error{means.error().code, where + "center=1: " + means.error().message};
    blocks.means_ = *means;
  }
  blocks.rotations_ = HeadRotations(choice.codec.name, choice.codec.version, config);
  return blocks;
}

CodecTraits LloydBlocks::traits() const noexcept {
  // With z the rotated row at norm sqrt(dim) and c its codes in units of a standard deviation, the stored scale is at most
  // |x| sqrt(dim) dim / <z, c>, which is largest for a row of one number: then <z, c> is sqrt(dim) times the largest
  // centroid, at least 0.79 (1 bit).
  float norm = 0.79F * kernels::kUfloat16Max / std::sqrt(static_cast<float>(dim_));
  for (const float number : means_) norm -= std::fabs(number);
  return {.exact_zero = means_.empty(), .largest_norm = std::max(0.0F, norm)};
}

CodeForm LloydBlocks::form() const noexcept {
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

double LloydBlocks::expected_error() const { return RotatedLloydError(*table_, static_cast<std::uint32_t>(dim_), scale_); }

/// Scratch of keys: the kernel's of Prepare, then queries that do not lie adjacent; or Score's.
Needs LloydBlocks::KeyNeeds(std::size_t n, std::uint32_t bits, std::size_t encode) const noexcept {
  const std::size_t batches = (n + kernels::kQueryBatch - 1) / kernels::kQueryBatch;
  return {.encode = encode,
          .decode = decode_scratch(),
          .prepared = batches * kernels::LloydQueryBatchBytes(bits, dim_),
          .scratch = std::max(unrotate_scratch(n), ByteCodesScoreScratch(n, dim_, tokens_))};
}

/// Scratch of values: the kernel's of Accumulate, or rows of Finish that are not simply overwritten.
Needs LloydBlocks::ValueNeeds(std::size_t n, std::size_t encode) const noexcept {
  return {.encode = encode,
          .decode = decode_scratch(),
          .scratch = std::max(kernels::ByteAccumulateScratchBytes(n), unrotate_scratch(n))};
}

void LloydBlocks::PrepareQueries(const PrepareArgs& args, const kernels::LloydTable& levels) const {
  const float* queries = AdjacentRows(args.queries, args.query_stride, args.n, dim_,
                                      reinterpret_cast<float*>(args.scratch + kernels::RotationScratchBytes(dim_)));
  kernels::LloydPrepareQueries({&levels, rotation(args.head).map(), mean(args.head)}, queries, args.n, args.prepared,
                               args.scratch);
}

kernels::LloydEncoding LloydBlocks::EncodingOf(std::size_t head) const noexcept {
  const Rotation& map = rotation(head);
  return {.table = table_,
          .shape = map.shape(),
          .rounds = map.rounds(),
          .signs = map.signs(),
          .mean = mean(head),
          .layout = layout(),
          .scale = scale_};
}

Result<void> LloydBlocks::Encoded(const EncodeArgs& args, std::size_t row) const {
  if (row == args.rows.count) return {};
  return BadRow({name_}, row, args.head);
}

Result<void> LloydBlocks::Encode(const EncodeArgs& args) const {
  auto* block = reinterpret_cast<std::uint8_t*>(args.block.part[0]);
  return Encoded(args, kernels::LloydEncode(EncodingOf(args.head), args.rows, block, args.scratch));
}

float LloydBlocks::ScaleAt(const std::byte* scales, std::size_t token) noexcept {
  std::uint16_t bits;
  std::memcpy(&bits, scales + token * sizeof(bits), sizeof(bits));
  return kernels::Ufloat16ToFloat(bits);
}

/// Scratch: Unrotate's of one row, then the row.
void LloydBlocks::DecodeRow(const DecodeArgs& args, std::size_t token, float unit, const float* row) const {
  Unrotate(FinishOfRow(args, token, dim_, row), unit);
}

void LloydBlocks::Decode(const DecodeArgs& args) const {
  const auto* codes = reinterpret_cast<const std::uint8_t*>(args.block.part[0]);
  const std::byte* scales = args.block.part[0] + kernels::LloydCodesBytes(table_->bits, dim_, tokens_);
  DecodeRows(args, scales, table_->unit, [&](std::size_t token, std::size_t i) {
    return table_->Centroid(kernels::LloydIndexAt(layout(), table_->bits, dim_, tokens_, codes, token, i));
  });
}

void LloydBlocks::Unrotate(const FinishArgs& args, float unit) const {
  const Rotation& map = rotation(args.head);
  const auto factor = static_cast<float>(1.0 / (map.shape().gain(map.rounds()) * unit * std::sqrt(static_cast<double>(dim_))));
  float* target = RowsTarget(args.rows, args.row_stride, args.n, dim_, args.add,
                             reinterpret_cast<float*>(args.scratch + kernels::RotationScratchBytes(dim_)));
  kernels::Unrotate(
      {map.map(), factor, mean(args.head), args.weight_sums, args.acc, args.acc_stride, args.n, target, args.scratch});
  PutRows(target, args.n, dim_, args.rows, args.row_stride, args.add);
}

}  // namespace kvant::quantizers
