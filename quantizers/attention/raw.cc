// Raw rows: sinks and tails.
#include "kernels/raw/dot.h"
#include "kernels/raw/rows.h"
#include "kernels/raw/weighted_sum.h"
#include "kernels/rope.h"
#include "kernels/softmax.h"
#include "quantizers/attention/tile.h"

namespace kvant::quantizers {

void Tile::AttendRaw(const RawRows& raw, const Range& seen, Partial& partial) {
  const Range rows{std::max(raw.first_position, seen.begin), std::min(raw.first_position + raw.count, seen.end)};
  for (std::uint64_t begin = rows.begin; begin < rows.end; begin += kChunkTokens) {
    const Range chunk{begin, std::min<std::uint64_t>(rows.end, begin + kChunkTokens)};
    const auto length = static_cast<std::size_t>(chunk.end - chunk.begin);
    ScoreRaw(raw, chunk);
    bool any = false;
    for (std::size_t i = 0; i < unit_.count; ++i) {
      float* logits = buffers_.logits.Floats() + i * kChunkTokens;
      if (!PrepareSoftmax(i, chunk, /*mask_raw=*/false, logits, partial, partial.raw_sum)) continue;
      partial.raw_sum[i] += kernels::ExpShifted(logits, length, partial.max[i]);
      any = true;
    }
    if (!any) continue;
    kernels::WeightedSumRows(buffers_.logits.Floats(), kChunkTokens, unit_.count, RawView(raw, raw.values, chunk.begin, length),
                             partial.raw_acc, spec_.head_dim);
  }
}

RowsView Tile::RawView(const RawRows& raw, const void* base, std::uint64_t position, std::size_t count) const {
  const auto row = static_cast<std::size_t>(position - raw.first_position);
  const auto* data =
      static_cast<const std::byte*>(base) + (unit_.head * raw.head_stride + row * raw.row_stride) * ElementBytes(raw.type);
  return {data, raw.type, count, spec_.head_dim, raw.row_stride};
}

void Tile::ScoreRaw(const RawRows& raw, const Range& chunk) {
  const float* queries = buffers_.queries.Floats();
  float* logits = buffers_.logits.Floats();
  const auto length = static_cast<std::size_t>(chunk.end - chunk.begin);
  if (rope_ == nullptr) {
    kernels::DotRows(queries, unit_.count, RawView(raw, raw.keys, chunk.begin, length), logits, kChunkTokens);
    return;
  }
  float* turned = buffers_.turned.Floats();
  for (std::size_t done = 0; done < length; done += kTurnTokens) {
    const std::size_t count = std::min(kTurnTokens, length - done);
    const RowsView view = RawView(raw, raw.keys, chunk.begin + done, count);
    for (std::size_t t = 0; t < count; ++t) {
      const auto* row = static_cast<const std::byte*>(view.data) + t * view.stride * ElementBytes(view.type);
      kernels::LoadRow(row, view.type, view.dim, turned + t * view.dim);
    }
    rope_->Rotate(turned, count, chunk.begin + done);
    const RowsView rows{turned, ElementType::kF32, count, view.dim, view.dim};
    kernels::DotRows(queries, unit_.count, rows, logits + done, kChunkTokens);
  }
}

}  // namespace kvant::quantizers
