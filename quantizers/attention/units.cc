#include "quantizers/attention/units.h"

#include <algorithm>
#include <functional>

namespace kvant::quantizers {
namespace {

// A run is long enough that preparing its queries does not show, and short enough that a layer of one KV head has runs for
// every thread.
constexpr std::size_t kRunTokens = 4096;
constexpr std::size_t kRunTokensOfFewHeads = 1024;
constexpr std::size_t kFewHeads = 4;
// Partial results of a large prompt, which has tiles enough to keep every thread busy, stay small.
constexpr std::size_t kMaxPartialQueries = 2048;

std::size_t QueriesPerHead(const AttendItem& item) { return item.query.q.tokens * GroupSize(item); }

/// Floats of a partial result, see Partial in tile.h; a multiple of 64 bytes.
std::size_t PartialFloats(const AttendItem& item, std::size_t head, std::size_t count) {
  const std::size_t floats = count * (3 + AccFloats(item, head) + item.cache.plan->spec().head_dim);
  return (floats + 15) / 16 * 16;
}

/// Blocks that the item's queries see any of.
struct Blocks {
  std::size_t begin = 0;
  std::size_t end = 0;
};

Blocks VisibleBlocks(const AttendItem& item, std::size_t first_token, std::size_t last_token) {
  const std::uint64_t tokens = item.cache.plan->spec().block_tokens;
  const std::size_t count = item.cache.blocks.size();
  const std::uint64_t end = (Visible(item.query, last_token).end + tokens - 1) / tokens;
  Blocks blocks;
  blocks.end = end < count ? static_cast<std::size_t>(end) : count;
  const std::uint64_t begin = Visible(item.query, first_token).begin / tokens;
  blocks.begin = begin < blocks.end ? static_cast<std::size_t>(begin) : blocks.end;
  return blocks;
}

/// Blocks of a run, from the item's shape alone.
std::size_t RunBlocks(const AttendItem& item) {
  const StoreSpec& spec = item.cache.plan->spec();
  const std::size_t tokens = spec.kv_heads < kFewHeads ? kRunTokensOfFewHeads : kRunTokens;
  const std::size_t run = std::max<std::size_t>(1, tokens / spec.block_tokens);
  const std::size_t runs = (item.cache.blocks.size() + run - 1) / run;
  const std::size_t queries = std::max<std::size_t>(1, item.query.q.tokens * item.query.q.heads);
  const std::size_t most = std::max<std::size_t>(1, kMaxPartialQueries / queries);
  return run * std::max<std::size_t>(1, (runs + most - 1) / most);
}

/// Whether two items may stand in one tile, as far as their shapes go; and the order that brings such items together.
bool SameTile(const AttendItem& a, const AttendItem& b) {
  return a.cache.plan == b.cache.plan && a.cache.layer == b.cache.layer && a.query.q.tokens == b.query.q.tokens &&
         a.query.q.heads == b.query.q.heads && a.query.softcap == b.query.softcap && a.query.window == 0 &&
         b.query.window == 0 && a.cache.kept.all() && b.cache.kept.all() && !a.cache.blocks.empty() &&
         !b.cache.blocks.empty() && a.cache.blocks[0] == b.cache.blocks[0] && RunBlocks(a) == RunBlocks(b);
}

/// Whether any query from `first_token` on sees a kept token of these blocks.
bool AnyKept(const AttendItem& item, std::size_t head, std::size_t first_token, const Blocks& blocks) {
  const KeptTokens& kept = item.cache.kept;
  if (kept.all()) return true;
  const std::uint64_t tokens = item.cache.plan->spec().block_tokens;
  return kept.Has(head, {blocks.begin * tokens, blocks.end * tokens}, kept.Gap(item.query.first_position + first_token));
}

const void* FirstBlock(const AttendItem& item) { return item.cache.blocks.empty() ? nullptr : item.cache.blocks[0]; }

/// Whether the raw rows of both cover the same positions below `end`.
bool SameRawBelow(const AttendItem& a, const AttendItem& b, std::uint64_t end) {
  const auto next = [end](const AttendItem& item, std::size_t i) {
    if (i >= item.cache.raw.size() || item.cache.raw[i].first_position >= end) return Range{end, end};
    const RawRows& raw = item.cache.raw[i];
    return Range{raw.first_position, std::min(end, raw.first_position + raw.count)};
  };
  for (std::size_t i = 0;; ++i) {
    const Range x = next(a, i), y = next(b, i);
    if (x.begin != y.begin || x.end != y.end) return false;
    if (x.begin == end) return true;
  }
}

/// Whole runs that a and b hold in common and that every query of both sees all of, in blocks.
std::size_t SharedBlocks(const AttendItem& a, const AttendItem& b) {
  const std::uint64_t tokens = a.cache.plan->spec().block_tokens;
  const std::uint64_t seen = std::min(Visible(a.query, 0).end, Visible(b.query, 0).end) / tokens;
  std::size_t most = std::min(a.cache.blocks.size(), b.cache.blocks.size());
  if (seen < most) most = static_cast<std::size_t>(seen);
  std::size_t shared = 0;
  while (shared < most && a.cache.blocks[shared] == b.cache.blocks[shared]) ++shared;
  const std::size_t run = RunBlocks(a);
  shared -= shared % run;
  return SameRawBelow(a, b, shared * tokens) ? shared : 0;
}

}  // namespace

Range Visible(const Query& query, std::size_t t) {
  const std::uint64_t end = query.first_position + t + 1;
  return {query.window != 0 && end > query.window ? end - query.window : 0, end};
}

std::size_t GroupSize(const AttendItem& item) { return item.query.q.heads / item.cache.plan->spec().kv_heads; }

std::size_t AccFloats(const AttendItem& item, std::size_t head) {
  return item.cache.plan->codecs(item.cache.layer, head).values->accumulator_floats(QueriesPerHead(item));
}

void Units::Cut(std::span<const AttendItem> items, std::size_t wave_floats) {
  full_wave_floats_ = wave_floats;
  wave_floats_ = 0;
  waves.clear();
  raw_units.clear();
  units.clear();
  split.clear();
  votes.clear();
  parts.clear();
  raw_parts.clear();
  partial_floats = work = largest_tile = 0;
  members.resize(items.size());
  for (std::uint32_t i = 0; i < members.size(); ++i) members[i] = {.item = i};
  std::sort(members.begin(), members.end(), [&](const Member& a, const Member& b) {
    const void* x = FirstBlock(items[a.item]);
    const void* y = FirstBlock(items[b.item]);
    return x != y ? std::less<>()(x, y) : a.item < b.item;
  });
  for (std::size_t begin = 0; begin < members.size();) {
    const AttendItem& first = items[members[begin].item];
    std::size_t end = begin + 1, shared = 0;
    if (QueriesPerHead(first) != 0 && QueriesPerHead(first) <= kMaxQueries) {
      for (; end < members.size() && SameTile(first, items[members[end].item]); ++end) {
        const std::size_t both = SharedBlocks(first, items[members[end].item]);
        if (both == 0) break;
        shared = shared == 0 ? both : std::min(shared, both);
      }
    }
    AddShared(items, begin, end, end - begin > 1 ? shared : 0);
    begin = end;
  }
  EndWave();
  for (std::uint32_t i = 0; i < members.size(); ++i) AddVotes(items[members[i].item], i);
}

void Units::EndWave() {
  waves.push_back({raw_units.size(), units.size(), split.size()});
  wave_floats_ = 0;
}

void Units::EndFullWave() {
  if (wave_floats_ >= full_wave_floats_) EndWave();
}

/// Items members[begin, end), which share their first `shared` blocks.
void Units::AddShared(std::span<const AttendItem> items, std::size_t begin, std::size_t end, std::size_t shared) {
  const AttendItem& item = items[members[begin].item];
  const std::size_t per_item = QueriesPerHead(item);
  const std::size_t runs = shared == 0 ? 0 : shared / RunBlocks(item);
  std::size_t items_per_tile = per_item == 0 ? 1 : std::max<std::size_t>(1, kMaxQueries / per_item);
  if (runs > 0) {  // their shared parts lie in memory together
    std::size_t floats = 0;
    for (std::size_t head = 0; head < item.cache.plan->spec().kv_heads; ++head) floats += PartialFloats(item, head, per_item);
    items_per_tile = std::clamp<std::size_t>(full_wave_floats_ / (runs * floats), 1, items_per_tile);
  }
  for (std::size_t from = begin; from < end; from += items_per_tile) {
    const std::size_t to = std::min(end, from + items_per_tile);
    const std::size_t first_part = parts.size();  // [KV head][run]
    for (std::size_t head = 0; runs > 0 && head < item.cache.plan->spec().kv_heads; ++head) {
      for (std::size_t run = 0; run < runs; ++run) {
        TileRun unit;
        unit.members = static_cast<std::uint32_t>(from);
        unit.per_item = static_cast<std::uint32_t>(per_item);
        unit.head = head;
        unit.count = (to - from) * per_item;
        unit.block_begin = run * (shared / runs);
        unit.block_end = unit.block_begin + shared / runs;
        parts.push_back(AddPart(item, unit, units));
      }
    }
    for (std::size_t m = from; m < to; ++m) {
      AddItem(items[members[m].item], static_cast<std::uint32_t>(m), shared, first_part, (m - from) * per_item);
    }
    EndFullWave();
  }
}

/// What of an item is its own: everything from block `shared` on, and the raw rows. The shared runs' parts begin at
/// shared_parts; the item's queries are those from shared_first on.
void Units::AddItem(const AttendItem& item, std::uint32_t member, std::size_t shared, std::size_t shared_parts,
                    std::size_t shared_first) {
  const std::size_t group = GroupSize(item), per_item = QueriesPerHead(item);
  const std::size_t run_blocks = RunBlocks(item), shared_runs = shared / run_blocks;
  members[member].runs = static_cast<std::uint32_t>((item.cache.blocks.size() + run_blocks - 1) / run_blocks);
  members[member].raw_part = raw_parts.size();
  for (std::size_t head = 0; head < item.cache.plan->spec().kv_heads; ++head) {
    for (std::size_t first = 0; first < per_item; first += kMaxQueries) {
      TileRun tile;
      tile.members = member;
      tile.per_item = static_cast<std::uint32_t>(per_item);
      tile.head = head;
      tile.first = first;
      tile.count = std::min(kMaxQueries, per_item - first);
      raw_parts.emplace_back();  // one for every tile, whether or not it needs one
      Blocks blocks = VisibleBlocks(item, first / group, (first + tile.count - 1) / group);
      if (shared == 0 && blocks.end - blocks.begin < run_blocks && blocks.end <= (blocks.begin / run_blocks + 1) * run_blocks) {
        // Less than a run that could be shared.
        tile.block_begin = blocks.begin;
        tile.block_end = blocks.end;
        tile.raw = tile.whole = true;
        Count(item, tile);
        units.push_back(tile);
        continue;
      }
      SplitTile made{tile, parts.size(), 0};
      if (!item.cache.raw.empty()) {
        TileRun unit = tile;
        unit.raw = true;
        members[member].has_raw = true;
        raw_parts.back() = AddPart(item, unit, raw_units);
        parts.push_back(raw_parts.back());
      }
      for (std::size_t run = 0; run < shared_runs; ++run) {
        Part part = parts[shared_parts + head * shared_runs + run];
        part.first = shared_first + first;
        parts.push_back(part);
      }
      for (std::size_t at = std::max(blocks.begin, shared); at < blocks.end;) {
        TileRun unit = tile;
        unit.block_begin = at;
        unit.block_end = at = std::min(blocks.end, (at / run_blocks + 1) * run_blocks);
        // A tile has one part at least.
        const bool last_resort = at == blocks.end && parts.size() == made.parts_begin;
        if (last_resort || AnyKept(item, head, first / group, {unit.block_begin, unit.block_end})) {
          parts.push_back(AddPart(item, unit, units));
        }
      }
      made.parts_end = parts.size();
      split.push_back(made);
      if (shared == 0) EndFullWave();
    }
  }
}

void Units::AddVotes(const AttendItem& item, std::uint32_t member) {
  const std::size_t per_item = QueriesPerHead(item);
  if (item.query.votes == nullptr || per_item == 0) return;
  const Blocks blocks = VisibleBlocks(item, 0, item.query.q.tokens - 1);
  const std::size_t run_blocks = RunBlocks(item);
  for (std::size_t head = 0; head < item.cache.plan->spec().kv_heads; ++head) {
    for (std::size_t at = blocks.begin; at < blocks.end;) {
      VoteUnit unit{.member = member, .head = head, .block_begin = at};
      unit.block_end = at = std::min(blocks.end, (at / run_blocks + 1) * run_blocks);
      if (AnyKept(item, head, 0, {unit.block_begin, unit.block_end})) votes.push_back(unit);
    }
    if (!item.cache.raw.empty()) votes.push_back({.member = member, .head = head, .raw = true});
  }
}

void Units::Count(const AttendItem& item, const TileRun& unit) {
  largest_tile = std::max(largest_tile, unit.count);
  work += unit.count * (unit.block_end - unit.block_begin) * item.cache.plan->spec().block_tokens;
  if (!unit.raw) return;
  for (const RawRows& raw : item.cache.raw) work += unit.count * raw.count;
}

Part Units::AddPart(const AttendItem& item, TileRun unit, std::vector<TileRun>& to) {
  Count(item, unit);
  unit.partial = wave_floats_;
  wave_floats_ += PartialFloats(item, unit.head, unit.count);
  partial_floats = std::max(partial_floats, wave_floats_);
  to.push_back(unit);
  return {unit.partial, unit.count, 0};
}

}  // namespace kvant::quantizers
