// Raw rows: sinks and tails.
#include "kernels/raw/dot.h"
#include "kernels/raw/weighted_sum.h"
#include "kernels/softmax.h"
#include "quantizers/attention/tile.h"

namespace kvant::quantizers {

void Tile::AttendRaw(std::size_t index, Partial& partial) {
  const RawRows& raw = cache_.raw[index];
  const Range& seen = seen_.positions();
  const Range rows{std::max(raw.first_position, seen.begin), std::min(raw.first_position + raw.count, seen.end)};
  for (std::uint64_t begin = rows.begin; begin < rows.end; begin += kChunkTokens) {
    const Range chunk{begin, std::min<std::uint64_t>(rows.end, begin + kChunkTokens)};
    const auto length = static_cast<std::size_t>(chunk.end - chunk.begin);
    ScoreRaw(keys_[index], chunk);
    bool any = false;
    for (std::size_t i = 0; i < unit_.count; ++i) {
      float* logits = buffers_.logits.Floats() + i * kChunkTokens;
      Cap(i, logits, length);
      Mask(i, chunk, /*mask_raw=*/false, logits);
      if (!NewMaximum(i, logits, length, partial, partial.raw_sum)) continue;
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

/// `keys` are the raw rows themselves, or those rows after RoPE.
void Tile::ScoreRaw(const RawRows& keys, const Range& chunk) {
  const auto length = static_cast<std::size_t>(chunk.end - chunk.begin);
  kernels::DotRows(buffers_.queries.Floats(), unit_.count, RawView(keys, keys.keys, chunk.begin, length),
                   buffers_.logits.Floats(), kChunkTokens);
}

}  // namespace kvant::quantizers
