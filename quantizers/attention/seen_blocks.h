// Which blocks a unit of attention reads: those that any of its queries takes anything from, packed into chunks.
#pragma once

#include <array>
#include <cstddef>

#include "quantizers/attention/units.h"

namespace kvant::quantizers {

/// Tokens whose logits are turned into weights together: they stay in the first or second cache between scoring, softmax and
/// accumulation. The same for every tile, or the tile would show in the result.
inline constexpr std::size_t kChunkTokens = 512;
/// Blocks have at least 16 tokens.
inline constexpr std::size_t kMaxChunkBlocks = kChunkTokens / 16;

/// Blocks in ascending order; the search for the next chunk's begins at `end`.
struct Chunk {
  std::array<std::size_t, kMaxChunkBlocks> blocks;
  std::size_t count = 0;
  std::size_t end = 0;
};

/// Of one unit. `item` is the first of its tile; what a tile of several items reads is the same in all.
class SeenBlocks {
 public:
  SeenBlocks(const AttendItem& item, const TileRun& unit);

  /// Positions that any query sees, whether or not they are kept.
  [[nodiscard]] const Range& positions() const noexcept { return positions_; }

  /// The first blocks from `from` on, as many as make a chunk; none if none are left.
  [[nodiscard]] Chunk Next(std::size_t from) const;

 private:
  [[nodiscard]] bool Sees(std::size_t block) const;
  [[nodiscard]] bool RawCovers(Range range) const;

  const CachedLayer& cache_;
  std::size_t head_;
  std::size_t block_end_;
  std::size_t per_chunk_;
  Range positions_;
  Range gap_;  // hidden from every query
};

}  // namespace kvant::quantizers
