#include "quantizers/attention/tile.h"

#include <bit>
#include <cfloat>
#include <cmath>

#include "kernels/raw/rows.h"
#include "kernels/raw/weighted_sum.h"
#include "kernels/softmax.h"

namespace kvant::quantizers {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Shares of a chunk's time, and so of what it asks for ahead: scoring, softmax, accumulation.
constexpr float kScoreShare = 0.40f;
constexpr float kSoftmaxShare = 0.18f;
constexpr float kAccumulateShare = 0.42f;

}  // namespace

Sizes SizesOf(const AttendItem& item, std::size_t count) {
  const StoreSpec& spec = item.cache.plan->spec();
  Sizes sizes;
  sizes.queries = count * spec.head_dim * sizeof(float);
  sizes.logits = count * std::max<std::size_t>(kChunkTokens, spec.block_tokens) * sizeof(float);
  sizes.rows = count * spec.head_dim * sizeof(float);
  for (const HeadCodecs& codecs : item.cache.plan->heads(item.cache.layer)) {
    const Needs keys = codecs.keys->needs(count), values = codecs.values->needs(count);
    sizes.prepared = std::max(sizes.prepared, keys.prepared);
    sizes.scratch = std::max({sizes.scratch, keys.scratch, values.scratch});
    sizes.partial =
        std::max(sizes.partial, Partial::Floats(count, AccFloats(item, codecs.begin), spec.head_dim) * sizeof(float));
  }
  return sizes;
}

Tile::Tile(std::span<const AttendItem> items, const Units& units, const TurnedKeys& keys, const TileRun& unit,
           ThreadBuffers& buffers, float* partials, bool raw_done)
    : items_(items),
      members_(&units.members[unit.members]),
      unit_(unit),
      cache_(items[members_->item].cache),
      seen_(items[members_->item], unit),
      codecs_(cache_.plan->codecs(cache_.layer, unit.head)),
      key_place_(cache_.plan->place(cache_.layer, unit.head, Side::kKeys)),
      value_place_(cache_.plan->place(cache_.layer, unit.head, Side::kValues)),
      spec_(cache_.plan->spec()),
      buffers_(buffers),
      keys_(keys.KeysOf(members_->item)),
      units_(units),
      group_(GroupSize(items[members_->item])),
      acc_floats_(AccFloats(items[members_->item], unit.head)) {
  std::fill_n(skipped_, unit_.count, 0.0f);
  std::fill_n(raw_max_, unit_.count, -kInfinity);
  if (raw_done && !unit_.raw) LearnFromRaw(partials);
}

/// The raw rows' weight counts towards what is negligible beside it: recent tokens and sinks often outweigh all others. Each of
/// an item's runs relies on its share only, so that all of them together stay within the bound.
void Tile::LearnFromRaw(float* partials) {
  for (std::size_t i = 0; i < unit_.count; ++i) {
    const Member& member = members_[(unit_.first + i) / unit_.per_item];
    if (!member.has_raw) continue;
    const std::size_t query = (unit_.first + i) % unit_.per_item;
    const std::size_t tiles = (unit_.per_item + kMaxQueries - 1) / kMaxQueries;
    const Part& part = units_.raw_parts[member.raw_part + unit_.head * tiles + query / kMaxQueries];
    const Partial raw(partials + part.partial, part.unit_count, acc_floats_, spec_.head_dim);
    raw_max_[i] = raw.max[query % kMaxQueries];
    raw_sum_[i] = raw.raw_sum[query % kMaxQueries] / static_cast<float>(member.runs);
  }
}

/// Whether query i may leave out another `weight` (in units of its running maximum), by HeadCodecs::negligible_weight.
bool Tile::Negligible(std::size_t i, float weight, const Partial& partial) const {
  float all = partial.code_sum[i] + partial.raw_sum[i];
  // Beyond e^80 everything here is negligible, and infinity would hide a NaN.
  if (raw_max_[i] != -kInfinity) all += raw_sum_[i] * std::exp(std::min(80.0f, raw_max_[i] - partial.max[i]));
  return skipped_[i] + weight <= codecs_.negligible_weight * all;
}

void Tile::Attend(Partial& partial, bool warm, const TileRun* next) {
  partial.Clear(unit_.count, acc_floats_, spec_.head_dim);
  Chunk chunk = seen_.Next(unit_.block_begin);
  if (chunk.count != 0 && !warm) {
    const ConstBlockView first = Keys(chunk.blocks[0]);
    for (std::size_t p = 0; p < first.parts; ++p) {
      for (std::size_t at = 0; at < key_place_.bytes[p]; at += 64) __builtin_prefetch(first.part[p] + at, 0, 2);
    }
  }
  LoadQueries(partial);
  if (unit_.raw) {
    for (std::size_t i = 0; i < cache_.raw.size(); ++i) AttendRaw(i, partial);
  }
  if (chunk.count == 0) return;
  Prepare();
  sparse_ = false;
  while (chunk.count != 0) {
    const Chunk after = seen_.Next(chunk.end);
    PlanPrefetch(chunk, after, next, warm);
    AttendChunk(chunk, partial);
    warm = true;
    chunk = after;
  }
}

void Tile::Prepare() {
  codecs_.keys->Prepare({.head = unit_.head,
                         .queries = buffers_.queries.Floats(),
                         .query_stride = spec_.head_dim,
                         .n = unit_.count,
                         .prepared = buffers_.prepared.data(),
                         .scratch = buffers_.scratch.data()});
}

/// Codecs round queries to integers, so one with NaN or infinity is replaced by zeros, and the NaN put into its sum comes out.
void Tile::LoadQueries(Partial& partial) {
  const std::size_t dim = spec_.head_dim;
  for (std::size_t i = 0; i < unit_.count; ++i) {
    const Query& query = ItemOf(i).query;
    const std::size_t head = unit_.head * group_ + (unit_.first + i) % unit_.per_item % group_;
    const auto* from = static_cast<const std::byte*>(query.q.data) +
                       (Token(i) * query.q.token_stride + head * query.q.head_stride) * ElementBytes(query.q.type);
    float* row = buffers_.queries.Floats() + i * dim;
    const float largest = kernels::LoadRow(from, query.q.type, dim, row);
    if (largest <= FLT_MAX) {
      kernels::Rescale(row, dim, query.scale);
    } else {
      std::fill_n(row, dim, 0.0f);
      partial.raw_sum[i] = std::numeric_limits<float>::quiet_NaN();
    }
  }
}

/// Sets the logits of positions to -infinity that query i does not see, that are not kept, or that raw rows cover.
void Tile::Mask(std::size_t i, const Range& positions, bool mask_raw, float* logits) const {
  const auto hide = [&](std::uint64_t begin, std::uint64_t end) {
    begin = std::max(begin, positions.begin);
    end = std::min(end, positions.end);
    if (begin < end) std::fill(logits + (begin - positions.begin), logits + (end - positions.begin), -kInfinity);
  };
  const Query& query = ItemOf(i).query;
  const Range visible = Visible(query, Token(i));
  hide(positions.begin, visible.begin);
  hide(visible.end, positions.end);
  const Range gap = cache_.kept.Gap(query.first_position + Token(i));
  hide(gap.begin, gap.end);
  if (cache_.kept.bits != nullptr) MaskDropped(positions, logits);
  if (!mask_raw) return;
  for (const RawRows& raw : cache_.raw) hide(raw.first_position, raw.first_position + raw.count);
}

/// Most words have few tokens or all, so that those that are kept are put aside.
void Tile::MaskDropped(const Range& positions, float* logits) const {
  const std::uint64_t end = std::min(positions.end, cache_.kept.end);
  for (std::uint64_t p = positions.begin; p < end;) {
    const auto count = static_cast<std::size_t>(std::min(end, (p / 64 + 1) * 64) - p);
    std::uint64_t word = cache_.kept.Word(unit_.head, p);
    if (std::countr_one(word) < static_cast<int>(count)) {
      float* const at = logits + (p - positions.begin);
      float aside[64];
      std::copy_n(at, count, aside);
      std::fill_n(at, count, -kInfinity);
      for (; word != 0; word &= word - 1) {
        const auto kept = static_cast<std::size_t>(std::countr_zero(word));
        if (kept >= count) break;
        at[kept] = aside[kept];
      }
    }
    p += count;
  }
}

/// Adjacent blocks at a time.
void Tile::MaskBlocks(std::size_t i, const Chunk& chunk, float* logits) const {
  const std::uint64_t tokens = spec_.block_tokens;
  for (std::size_t first = 0, last = 0; first < chunk.count; first = last) {
    for (last = first + 1; last < chunk.count && chunk.blocks[last] == chunk.blocks[last - 1] + 1;) ++last;
    Mask(i, {chunk.blocks[first] * tokens, (chunk.blocks[last - 1] + 1) * tokens}, /*mask_raw=*/true, logits + first * tokens);
  }
}

void Tile::Cap(std::size_t i, float* logits, std::size_t length) const {
  if (const float cap = ItemOf(i).query.softcap; cap > 0.0f) kernels::SoftCap(logits, length, cap);
}

/// The running maximum with these logits, capped and masked. False if there is nothing to weigh: all weights are then 0.
bool Tile::NewMaximum(std::size_t i, float* logits, std::size_t length, Partial& partial, float* sums) {
  const float max = kernels::MaxOf(logits, length);
  if (max == -kInfinity || max == kInfinity) {
    // A logit beyond f32, or none but such whose parts cancelled to NaN.
    const auto is_nan = [](float logit) { return std::isnan(logit); };
    if (max == kInfinity || std::any_of(logits, logits + length, is_nan)) sums[i] = std::numeric_limits<float>::quiet_NaN();
    std::fill_n(logits, length, 0.0f);
    return false;
  }
  if (max > partial.max[i]) {
    if (partial.max[i] != -kInfinity) {
      const float factor = std::exp(partial.max[i] - max);
      kernels::Rescale(partial.code_acc + i * acc_floats_, acc_floats_, factor);
      kernels::Rescale(partial.raw_acc + i * spec_.head_dim, spec_.head_dim, factor);
      partial.code_sum[i] *= factor;
      partial.raw_sum[i] *= factor;
      skipped_[i] *= factor;
    }
    partial.max[i] = max;
  }
  return true;
}

/// In the order of reading: the keys themselves where nobody asked for them yet, the chunk's values (unless it looks as if
/// most of them will not be needed), the keys of the next chunk or of the first chunk of the next unit.
void Tile::PlanPrefetch(const Chunk& chunk, const Chunk& next, const TileRun* next_unit, bool warm) {
  prefetch_.Clear();
  const auto add = [this](const Place& place, const ConstBlockView& block) {
    for (std::size_t p = 0; p < block.parts; ++p) prefetch_.Add(block.part[p], place.bytes[p]);
  };
  if (!warm) {
    for (std::size_t b = 1; b < chunk.count; ++b) add(key_place_, Keys(chunk.blocks[b]));
  }
  if (!sparse_) {
    for (std::size_t b = 0; b < chunk.count; ++b) add(value_place_, Values(chunk.blocks[b]));
  }
  for (std::size_t b = 0; b < next.count; ++b) add(key_place_, Keys(next.blocks[b]));
  if (next.count != 0 || next_unit == nullptr) return;
  const AttendItem& item = items_[units_.members[next_unit->members].item];
  const Place place = item.cache.plan->place(item.cache.layer, next_unit->head, Side::kKeys);
  const Chunk first = SeenBlocks(item, *next_unit).Next(next_unit->block_begin);
  for (std::size_t b = 0; b < first.count; ++b) add(place, At(item.cache, place, first.blocks[b]));
}

void Tile::Score(const Chunk& chunk) {
  const std::uint64_t tokens = spec_.block_tokens;
  for (std::size_t b = 0; b < chunk.count; ++b) {
    codecs_.keys->Score({.head = unit_.head,
                         .first_position = chunk.blocks[b] * tokens,
                         .queries = buffers_.queries.Floats(),
                         .query_stride = spec_.head_dim,
                         .prepared = buffers_.prepared.data(),
                         .n = unit_.count,
                         .block = Keys(chunk.blocks[b]),
                         .logits = buffers_.logits.Floats() + b * tokens,
                         .stride = chunk.count * tokens,
                         .scratch = buffers_.scratch.data(),
                         .next = prefetch_.Take(kScoreShare / static_cast<float>(chunk.count))});
  }
}

void Tile::AttendChunk(const Chunk& chunk, Partial& partial) {
  const std::uint64_t tokens = spec_.block_tokens;
  const std::size_t stride = chunk.count * tokens;
  const float* const weights = buffers_.logits.Floats();
  Score(chunk);
  if (!Weigh(chunk, partial)) return;
  for (std::size_t b = 0; b < chunk.count; ++b) {
    const Ahead ahead = prefetch_.Take(kAccumulateShare / static_cast<float>(chunk.count));
    if (!needed_[b]) continue;
    codecs_.values->Accumulate({.head = unit_.head,
                                .first_position = chunk.blocks[b] * tokens,
                                .weights = weights + b * tokens,
                                .stride = stride,
                                .n = unit_.count,
                                .block = Values(chunk.blocks[b]),
                                .acc = partial.code_acc,
                                .acc_stride = acc_floats_,
                                .acc_floats = acc_floats_,
                                .scratch = buffers_.scratch.data(),
                                .next = ahead});
  }
}

/// Logits of a chunk to weights. Where all of a block's weights together are negligible (HeadCodecs::negligible_weight bounds
/// what a query may lose that way in all) they become 0, and the block's values are not needed for this query.
bool Tile::Weigh(const Chunk& chunk, Partial& partial) {
  const std::uint64_t tokens = spec_.block_tokens;
  const std::size_t count = chunk.count, stride = count * tokens;
  std::fill_n(needed_, count, false);
  const float share = kSoftmaxShare / static_cast<float>(unit_.count);
  for (std::size_t i = 0; i < unit_.count; ++i) {
    float* logits = buffers_.logits.Floats() + i * stride;
    Cap(i, logits, stride);
    MaskBlocks(i, chunk, logits);
    if (!NewMaximum(i, logits, stride, partial, partial.code_sum)) continue;
    const Ahead ahead = prefetch_.Take(share);
    float weights[kMaxChunkBlocks];
    kernels::ExpShifted(logits, count, tokens, partial.max[i], weights, ahead.data, ahead.bytes);
    for (std::size_t b = 0; b < count; ++b) {
      partial.code_sum[i] += weights[b];
      if (Negligible(i, weights[b], partial)) {
        skipped_[i] += weights[b];
        std::fill_n(logits + b * tokens, tokens, 0.0f);
      } else {
        needed_[b] = true;
      }
    }
  }
  const auto used = static_cast<std::size_t>(std::count(needed_, needed_ + count, true));
  sparse_ = 2 * used < count;
  return used != 0;
}

}  // namespace kvant::quantizers
