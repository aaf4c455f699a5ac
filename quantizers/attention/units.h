// How one call of attention is cut into units of work, and which units' results make up each output.
//
// A tile is up to kMaxQueries queries that share one KV head; a run is a stretch of blocks. A unit is one tile against one run
// (or against the raw rows): what a thread takes at once. Runs begin at multiples of their length, and the length depends on
// an item's shape alone, so items that share a prefix share whole runs: their queries then stand in one tile and each block of
// the run is read once for all of them (cascade). Which tile a query stands in never changes its result.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "quantizers/attention/attention.h"

namespace kvant::quantizers {

/// One unit. Query i of the tile is query (first + i) % per_item of item members[.. + (first + i) / per_item]; an item's
/// queries are numbered token * group + head of the group.
struct TileRun {
  std::uint32_t members = 0;  ///< where the tile's items begin in Units::members
  std::uint32_t per_item = 0;
  std::size_t head = 0;
  std::size_t first = 0;
  std::size_t count = 0;
  std::size_t block_begin = 0;
  std::size_t block_end = 0;
  bool raw = false;         ///< takes the raw rows, too; then all queries are of one item
  bool whole = false;       ///< nothing else belongs to these queries: finish at once
  std::size_t partial = 0;  ///< unless whole: where the result lies, in floats
};

/// Queries [first, first + count) of the partial result of one unit.
struct Part {
  std::size_t partial = 0;
  std::size_t unit_count = 0;
  std::size_t first = 0;
};

/// Outputs that are put together from the parts [parts_begin, parts_end), in that order.
struct SplitTile {
  TileRun tile;
  std::size_t parts_begin = 0;
  std::size_t parts_end = 0;
};

/// What the units of one item know of each other.
struct Member {
  std::uint32_t item = 0;    ///< its index
  std::uint32_t runs = 0;    ///< units that take its blocks, of any one query
  std::size_t raw_part = 0;  ///< its part of Units::raw_parts begins here
  bool has_raw = false;      ///< some units take raw rows alone
};

/// A stretch of an item's blocks of one KV head, or its raw rows, whose tokens get the votes of all of its queries.
struct VoteUnit {
  std::uint32_t member = 0;
  std::size_t head = 0;
  std::size_t block_begin = 0;
  std::size_t block_end = 0;
  bool raw = false;
};

/// Units that are computed before the next wave begins, with the outputs that they complete: from where the wave before ends to
/// these indices. Partial results of one wave lie in memory together, those of the next in the same place.
struct Wave {
  std::size_t raw_units_end = 0;
  std::size_t units_end = 0;
  std::size_t split_end = 0;
};

struct Units {
  std::vector<TileRun> raw_units;  ///< raw rows alone: done before the others, which learn from them what is negligible
  std::vector<TileRun> units;
  std::vector<SplitTile> split;
  std::vector<Part> parts;
  std::vector<Part> raw_parts;  ///< of each item, [KV head][tile]: the raw rows' part, empty where the tile takes them itself
  std::vector<Member> members;
  std::vector<Wave> waves;
  std::vector<VoteUnit> votes;     ///< after all waves; no two have a token in common
  std::size_t partial_floats = 0;  ///< of the largest wave
  std::size_t work = 0;            ///< (query, token) pairs
  std::size_t largest_tile = 0;    ///< queries

  /// Cuts the items. Allocates only while the vectors grow. Where waves end does not change a result.
  /// A wave ends with the tile (or the tiles of items that share blocks) that brings its partial results to `wave_floats`
  /// floats.
  void Cut(std::span<const AttendItem> items, std::size_t wave_floats = Attention::kPartialBytes / sizeof(float));

 private:
  void AddShared(std::span<const AttendItem> items, std::size_t begin, std::size_t end, std::size_t shared);
  void AddItem(const AttendItem& item, std::uint32_t member, std::size_t shared, std::size_t shared_parts,
               std::size_t shared_first);
  void AddVotes(const AttendItem& item, std::uint32_t member);
  void Count(const AttendItem& item, const TileRun& unit);
  Part AddPart(const AttendItem& item, TileRun unit, std::vector<TileRun>& to);
  void EndWave();
  void EndFullWave();

  std::size_t full_wave_floats_ = 0;
  std::size_t wave_floats_ = 0;  // of the wave that is being made
};

/// Query heads per KV head.
std::size_t GroupSize(const AttendItem& item);

/// Floats of one query's accumulator in the codec of one KV head. Depends on the item alone, so parts of different tiles add
/// up.
std::size_t AccFloats(const AttendItem& item, std::size_t head);

/// What query t of an item sees.
Range Visible(const Query& query, std::size_t t);

}  // namespace kvant::quantizers
