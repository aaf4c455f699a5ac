#include "quantizers/attention/seen_blocks.h"

#include <algorithm>

namespace kvant::quantizers {

SeenBlocks::SeenBlocks(const AttendItem& item, const TileRun& unit)
    : cache_(item.cache),
      head_(unit.head),
      block_end_(unit.block_end),
      per_chunk_(std::max<std::size_t>(1, kChunkTokens / item.cache.plan->spec().block_tokens)) {
  const std::size_t group = GroupSize(item);
  const auto token = [&](std::size_t i) { return (unit.first + i) % unit.per_item / group; };
  // Queries of several items see all of the tile's blocks.
  const std::size_t last = unit.count > unit.per_item ? 0 : unit.count - 1;
  positions_ = {Visible(item.query, token(0)).begin, Visible(item.query, token(last)).end};
  gap_ = cache_.kept.Gap(item.query.first_position + token(0));
}

Chunk SeenBlocks::Next(std::size_t from) const {
  Chunk chunk;
  for (; from < block_end_ && chunk.count < per_chunk_; ++from) {
    if (Sees(from)) chunk.blocks[chunk.count++] = from;
  }
  chunk.end = from;
  return chunk;
}

bool SeenBlocks::Sees(std::size_t block) const {
  const std::uint64_t tokens = cache_.plan->spec().block_tokens;
  const Range range{std::max(block * tokens, positions_.begin), std::min((block + 1) * tokens, positions_.end)};
  return !range.empty() && !RawCovers(range) && cache_.kept.Has(head_, range, gap_);
}

/// True if raw rows cover all of the range.
bool SeenBlocks::RawCovers(Range range) const {
  for (const RawRows& raw : cache_.raw) {
    if (raw.first_position <= range.begin && raw.first_position + raw.count > range.begin) {
      range.begin = raw.first_position + raw.count;
      if (range.empty()) return true;
    }
  }
  return false;
}

}  // namespace kvant::quantizers
