#include "quantizers/rotated_keys.h"

#include <cmath>
#include <cstring>
#include <string>

#include "kernels/lloyd/score.h"
#include "kernels/rotation/unrotate.h"
#include "kernels/ufloat16.h"
#include "quantizers/strided_rows.h"

namespace kvant::quantizers {

using kernels::kLanes;

Result<void> CheckRotatedShape(const CodecName& codec, const CodecConfig& config, std::uint32_t bits) {
  const std::string where = std::string(codec.name) + " layer " + std::to_string(config.layer) + ": ";
  if (config.head_dim < 8 || config.head_dim > kernels::kMaxHeadDim || config.head_dim % 8 != 0) {
    return Error{ErrorCode::kUnsupported,
                 where + "head_dim " + std::to_string(config.head_dim) + " is not a multiple of 8 in 8..1024"};
  }
  const auto multiple = kernels::LloydBlockMultiple(bits);
  if (config.block_tokens == 0 || config.block_tokens % multiple != 0) {
    return Error{ErrorCode::kInvalidArgument, where + "block_tokens " + std::to_string(config.block_tokens) +
                                                  " is not a multiple of " + std::to_string(multiple) + ", which codes of " +
                                                  std::to_string(bits) + " bits need"};
  }
  return {};
}

Error BadRow(const CodecName& codec, std::size_t row, std::size_t head) {
  return Error{ErrorCode::kNotFinite, "encode as " + std::string(codec.name) + ": row " + std::to_string(row) + " of KV head " +
                                          std::to_string(head) + " holds NaN or infinity, or its norm exceeds 8.5e9"};
}

RotatedKeys::RotatedKeys(const CodecName& codec, const CodecConfig& config, const kernels::LloydTable& table)
    : codec_(codec),
      dim_(config.head_dim),
      tokens_(config.block_tokens),
      table_(&table),
      level_(static_cast<float>(1.0 / (table.unit * std::sqrt(static_cast<double>(config.head_dim))))),
      rotations_(codec.name, codec.version, config) {}

std::size_t RotatedKeys::memory_bytes() const noexcept { return rotations_.memory_bytes(); }

CodecTraits RotatedKeys::traits() const noexcept {
  // The largest scale is that of the unbiased kind, |x|^2 / <x, c / (unit sqrt(dim))>. A row of one number has the smallest
  // inner product with its codes: |x| times the largest level, which is at least 0.79 standard deviations in every table.
  return {.largest_norm = 0.79F * kernels::kUfloat16Max / std::sqrt(static_cast<float>(dim_))};
}

CodeForm RotatedKeys::form() const noexcept {
  return {.family = CodeFamily::kScalar,
          .order = CodeOrder::kKeyTiles,
          .bits = static_cast<std::uint8_t>(table_->bits),
          .magnitudes = table_->magnitudes.data(),
          .level_unit = table_->unit * std::sqrt(static_cast<float>(dim_)),
          .scale_format = ScaleFormat::kUfloat16,
          .scale_offset = kernels::LloydCodesBytes(table_->bits, dim_, tokens_),
          .rotated = true};
}

/// Encode is the codec's own. Decode: Unrotate's scratch, then two sets of kLanes rows. Scratch: of Prepare the kernel's, then
/// queries that do not lie adjacent; or Score's.
Needs RotatedKeys::needs(std::size_t n) const noexcept {
  const std::size_t row = dim_ * sizeof(float);
  return {.decode = kernels::RotationScratchBytes(dim_) + 2 * kLanes * row,
          .prepared = prepared_bytes(n),
          .scratch = std::max(kernels::RotationScratchBytes(dim_) + n * row, ByteCodesScoreScratch(n, dim_, tokens_))};
}

float RotatedKeys::ScaleAt(const std::byte* block, std::size_t token) const noexcept {
  std::uint16_t bits;
  std::memcpy(&bits, block + kernels::LloydCodesBytes(table_->bits, dim_, tokens_) + token * sizeof(bits), sizeof(bits));
  return kernels::Ufloat16ToFloat(bits);
}

void RotatedKeys::RotatedRows(const DecodeArgs& args, std::size_t begin, std::size_t count, float* rows, std::byte*) const {
  const auto* codes = reinterpret_cast<const std::uint8_t*>(args.block.part[0]);
  for (std::size_t t = 0; t < count; ++t) {
    const float factor = ScaleAt(args.block.part[0], begin + t) * level_;
    for (std::size_t i = 0; i < dim_; ++i) {
      const auto index = kernels::LloydIndexAt(kernels::LloydLayout::kKeys, table_->bits, dim_, tokens_, codes, begin + t, i);
      rows[t * dim_ + i] = static_cast<float>(table_->Centroid(index)) * factor;
    }
  }
}

void RotatedKeys::Decode(const DecodeArgs& args) const {
  const Rotation& map = rotation(args.head);
  const auto factor = static_cast<float>(1.0 / map.shape().gain(map.rounds()));
  auto* rotated = reinterpret_cast<float*>(args.scratch + kernels::RotationScratchBytes(dim_));
  float* rows = rotated + kLanes * dim_;
  for (std::size_t begin = args.begin; begin < args.end; begin += kLanes) {
    const std::size_t count = std::min(kLanes, args.end - begin);
    RotatedRows(args, begin, count, rotated, reinterpret_cast<std::byte*>(rows + kLanes * dim_));
    kernels::Unrotate({.map = map.map(),
                       .factor = factor,
                       .from = rotated,
                       .stride = dim_,
                       .n = count,
                       .rows = rows,
                       .scratch = args.scratch});
    PutRows(rows, count, dim_, args.rows + (begin - args.begin) * args.row_stride, args.row_stride, args.add);
  }
}

void RotatedKeys::Prepare(const PrepareArgs& args) const {
  auto* own = reinterpret_cast<float*>(args.scratch + kernels::RotationScratchBytes(dim_));
  const float* queries = AdjacentRows(args.queries, args.query_stride, args.n, dim_, own);
  kernels::LloydPrepareQueries({.table = table_, .map = rotation(args.head).map()}, queries, args.n, args.prepared,
                               args.scratch);
}

void RotatedKeys::Score(const ScoreArgs& args) const {
  ScoreByteCodes(args, dim_, tokens_, [this](const kernels::ByteScoreArgs& bytes) { kernels::LloydScore(*table_, bytes); });
}

}  // namespace kvant::quantizers
