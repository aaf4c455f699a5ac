#include "quantizers/sketched_signs.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "kernels/lloyd/encode.h"
#include "kernels/lloyd/query.h"
#include "kernels/lloyd/score.h"
#include "kernels/rotation/transpose.h"
#include "kernels/ufloat16.h"
#include "quantizers/byte_codes.h"
#include "quantizers/scratch.h"

namespace kvant::quantizers {

using kernels::kLanes;
using kernels::LloydLayout;

namespace {

const kernels::LloydTable& Signs() { return *kernels::FindLloydTable(1); }

}  // namespace

Result<void> CheckProjections(const CodecName& codec, const CodecConfig& config, std::uint64_t projections) {
  const std::uint64_t most = std::min(kMaxProjections, kMaxProjectionsPerNumber * config.head_dim);
  if (projections >= 8 && projections <= most && projections % 8 == 0) return {};
  return Error{projections > most ? ErrorCode::kUnsupported : ErrorCode::kInvalidArgument,
               std::string(codec.name) + " layer " + std::to_string(config.layer) + ": m=" + std::to_string(projections) +
                   " is not a multiple of 8 in 8.." + std::to_string(most) + " (head_dim " + std::to_string(config.head_dim) +
                   ")"};
}

SketchedSigns::SketchedSigns(const CodecName& codec, const CodecConfig& config, SketchKind kind, std::uint32_t projections)
    : dim_(config.head_dim), tokens_(config.block_tokens), projections_(projections), first_head_(config.head_begin) {
  sketches_.reserve(config.head_end - config.head_begin);
  for (std::uint32_t head = config.head_begin; head < config.head_end; ++head) {
    const RotationKey key{codec.name, codec.version, config.model, config.layer, head, config.side, config.stream};
    sketches_.emplace_back(kind, config.head_dim, projections, key);
  }
}

std::size_t SketchedSigns::memory_bytes() const noexcept {
  std::size_t bytes = sketches_.capacity() * sizeof(Sketch);
  for (const Sketch& each : sketches_) bytes += each.memory_bytes();
  return bytes;
}

void SketchedSigns::Encode(std::size_t head, const float* columns, const float* norms, std::size_t first, std::byte* bytes,
                           std::byte* scratch) const {
  auto* sketched = reinterpret_cast<float*>(scratch);
  sketch(head).Columns(columns, 1.0F, sketched);
  const kernels::LloydField at = kernels::LloydFieldOf(LloydLayout::kKeys, 1, projections_, first, 0);
  auto* tile = reinterpret_cast<std::uint8_t*>(bytes) + at.byte;  // of 16 bytes for each projection, a bit per 16 tokens
  if (at.shift == 0) std::memset(tile, 0, kLanes * projections_);
  for (std::size_t i = 0; i < projections_; ++i) {
    std::uint8_t* to = tile + i / 4 * 64 + i % 4;
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const unsigned bit = sketched[i * kLanes + lane] < 0.0F ? 0U : 1U;
      to[lane * 4] = static_cast<std::uint8_t>(to[lane * 4] | bit << at.shift);
    }
  }
  std::byte* stored = bytes + kernels::LloydCodesBytes(1, projections_, tokens_);
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    const std::uint16_t number = kernels::FloatToUfloat16(norms[lane]);
    std::memcpy(stored + (first + lane) * sizeof(number), &number, sizeof(number));
  }
}

std::size_t SketchedSigns::batch_bytes() const noexcept { return kernels::LloydQueryBatchBytes(1, projections_); }

/// Sketched columns, the same as rows, and what preparing queries takes.
std::size_t SketchedSigns::prepare_scratch() const noexcept {
  return column_bytes() + FloatBytes(kLanes * projections_) + kernels::RotationScratchBytes(projections_);
}

void SketchedSigns::Prepare(std::size_t head, const float* columns, std::size_t count, std::byte* batch,
                            std::byte* scratch) const {
  const Sketch& map = sketch(head);
  auto* sketched = reinterpret_cast<float*>(scratch);
  auto* rows = reinterpret_cast<float*>(scratch + column_bytes());
  // Queries are prepared as those of codes of one bit of unrotated rows of m numbers, which read back as scale * sign / (unit
  // sqrt(m)): the sketch is scaled so that this is constant * norm * sign.
  const double factor = map.constant() * static_cast<double>(Signs().unit) * std::sqrt(static_cast<double>(projections_));
  map.Columns(columns, static_cast<float>(factor), sketched);
  kernels::StoreColumns(sketched, projections_, 0, count, rows, projections_);
  const auto shape = kernels::HadamardShape::For(static_cast<std::uint32_t>(projections_));
  kernels::LloydPrepareQueries({.table = &Signs(), .map = {.shape = shape}}, rows, count, batch,
                               scratch + column_bytes() + FloatBytes(kLanes * projections_));
}

std::size_t SketchedSigns::score_scratch(std::size_t n) const noexcept {
  return ByteCodesScoreScratch(n, projections_, tokens_);
}

void SketchedSigns::Score(const ScoreArgs& args) const {
  ScoreByteCodes(args, projections_, tokens_, [](const kernels::ByteScoreArgs& bytes) { kernels::LloydScore(Signs(), bytes); });
}

/// Signs times norms, then the sketch's.
std::size_t SketchedSigns::rows_scratch() const noexcept {
  return FloatBytes(kLanes * projections_) + Sketch::TransposeScratchBytes(dim_);
}

void SketchedSigns::AddRows(std::size_t head, const std::byte* bytes, std::size_t begin, std::size_t count, float* rows,
                            std::byte* scratch) const {
  const auto* codes = reinterpret_cast<const std::uint8_t*>(bytes);
  const std::byte* stored = bytes + kernels::LloydCodesBytes(1, projections_, tokens_);
  auto* signs = reinterpret_cast<float*>(scratch);
  const double constant = sketch(head).constant();
  for (std::size_t t = 0; t < count; ++t) {
    std::uint16_t number;
    std::memcpy(&number, stored + (begin + t) * sizeof(number), sizeof(number));
    const auto size = static_cast<float>(constant * static_cast<double>(kernels::Ufloat16ToFloat(number)));
    for (std::size_t i = 0; i < projections_; ++i) {
      const auto bit = kernels::LloydIndexAt(LloydLayout::kKeys, 1, projections_, tokens_, codes, begin + t, i);
      signs[t * projections_ + i] = bit != 0 ? size : -size;
    }
  }
  sketch(head).AddTransposed(signs, count, rows, scratch + FloatBytes(kLanes * projections_));
}

void ColumnNorms(const float* columns, std::size_t dim, float* norms) {
  double squares[kLanes] = {};
  for (std::size_t i = 0; i < dim; ++i) {
    for (std::size_t lane = 0; lane < kLanes; ++lane) {
      const double x = static_cast<double>(columns[i * kLanes + lane]);
      squares[lane] += x * x;
    }
  }
  for (std::size_t lane = 0; lane < kLanes; ++lane) norms[lane] = static_cast<float>(std::sqrt(squares[lane]));
}

}  // namespace kvant::quantizers
