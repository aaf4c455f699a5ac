// The inner part of attention: one tile of queries of one KV head against one run of blocks. See
// quantizers/attention/attention.h.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "quantizers/attention/aligned_buffer.h"
#include "quantizers/attention/prefetch_stream.h"
#include "quantizers/attention/seen_blocks.h"
#include "quantizers/attention/turned_keys.h"
#include "quantizers/attention/units.h"

namespace kvant::quantizers {

/// One tile's running softmax: maximum and sums per query, accumulators in the value codec's space and in row space.
struct Partial {
  float* max = nullptr;       ///< [count]
  float* code_sum = nullptr;  ///< [count] weights that went through the value codec
  float* raw_sum = nullptr;   ///< [count] weights of raw rows
  float* code_acc = nullptr;  ///< [count, accumulator_floats]
  float* raw_acc = nullptr;   ///< [count, head_dim]

  static std::size_t Floats(std::size_t count, std::size_t acc_floats, std::size_t dim) {
    return count * (3 + acc_floats + dim);
  }

  /// Of a unit of `count` queries.
  Partial(float* memory, std::size_t count, std::size_t acc_floats, std::size_t dim)
      : max(memory + count * (acc_floats + dim)),
        code_sum(max + count),
        raw_sum(code_sum + count),
        code_acc(memory),
        raw_acc(memory + count * acc_floats) {}

  /// The results from query `first` on.
  [[nodiscard]] Partial From(std::size_t first, std::size_t acc_floats, std::size_t dim) const {
    Partial part = *this;
    part.max += first;
    part.code_sum += first;
    part.raw_sum += first;
    part.code_acc += first * acc_floats;
    part.raw_acc += first * dim;
    return part;
  }

  void Clear(std::size_t count, std::size_t acc_floats, std::size_t dim) {
    std::fill_n(code_acc, count * acc_floats, 0.0f);
    std::fill_n(raw_acc, count * dim, 0.0f);
    std::fill_n(max, count, -std::numeric_limits<float>::infinity());
    std::fill_n(code_sum, count, 0.0f);
    std::fill_n(raw_sum, count, 0.0f);
  }
};

/// Byte sizes of one thread's buffers for the largest tile of a call.
struct Sizes {
  std::size_t queries = 0;
  std::size_t prepared = 0;
  std::size_t logits = 0;
  std::size_t partial = 0;
  std::size_t rows = 0;
  std::size_t scratch = 0;

  void Cover(const Sizes& other) {
    queries = std::max(queries, other.queries);
    prepared = std::max(prepared, other.prepared);
    logits = std::max(logits, other.logits);
    partial = std::max(partial, other.partial);
    rows = std::max(rows, other.rows);
    scratch = std::max(scratch, other.scratch);
  }
};

/// What a tile of up to `count` queries of this item needs.
Sizes SizesOf(const AttendItem& item, std::size_t count);

/// One thread's buffers.
struct ThreadBuffers {
  AlignedBuffer queries;  ///< [count, head_dim] floats, times the softmax scale
  AlignedBuffer prepared;
  AlignedBuffer logits;   ///< [count, chunk]
  AlignedBuffer partial;  ///< a Partial, where the unit has only one run
  AlignedBuffer rows;     ///< [count, head_dim] floats
  AlignedBuffer scratch;  ///< of the codecs

  void Reserve(const Sizes& sizes) {
    queries.Reserve(sizes.queries);
    prepared.Reserve(sizes.prepared);
    logits.Reserve(sizes.logits);
    partial.Reserve(sizes.partial);
    rows.Reserve(sizes.rows);
    scratch.Reserve(sizes.scratch);
  }
};

/// One unit: attends to its blocks and raw rows and overwrites `partial`. Between calls, what the thread reads next is on its
/// way: `warm` says that the first block was prefetched, `next` (or null) is the unit this thread takes next.
class Tile {
 public:
  /// `keys` has done all its jobs. `partials` holds the parts; those of raw rows alone are read if they are done, which
  /// `raw_done` says.
  Tile(std::span<const AttendItem> items, const Units& units, const TurnedKeys& keys, const TileRun& unit,
       ThreadBuffers& buffers, float* partials, bool raw_done);

  void Attend(Partial& partial, bool warm, const TileRun* next);

  /// Adds the votes of the unit's queries, all of one item, to those of its blocks' tokens, or of its raw rows'. `partial` is
  /// scratch.
  void Vote(Partial& partial);

 private:
  [[nodiscard]] const AttendItem& ItemOf(std::size_t i) const {
    return items_[members_[(unit_.first + i) / unit_.per_item].item];
  }
  [[nodiscard]] std::size_t Token(std::size_t i) const { return (unit_.first + i) % unit_.per_item / group_; }

  void LoadQueries(Partial& partial);
  void LearnFromRaw(float* partials);
  [[nodiscard]] bool Negligible(std::size_t i, float weight, const Partial& partial) const;
  void Mask(std::size_t i, const Range& positions, bool mask_raw, float* logits) const;
  void MaskDropped(const Range& positions, float* logits) const;
  void MaskBlocks(std::size_t i, const Chunk& chunk, float* logits) const;
  void Cap(std::size_t i, float* logits, std::size_t length) const;
  bool NewMaximum(std::size_t i, float* logits, std::size_t length, Partial& partial, float* sums);

  void AttendRaw(std::size_t index, Partial& partial);
  [[nodiscard]] RowsView RawView(const RawRows& raw, const void* base, std::uint64_t position, std::size_t count) const;
  void ScoreRaw(const RawRows& keys, const Range& chunk);
  void VoteRaw(std::size_t index);

  void Prepare();
  void PlanPrefetch(const Chunk& chunk, const Chunk& next, const TileRun* next_unit, bool warm);
  void AttendChunk(const Chunk& chunk, Partial& partial);
  void Score(const Chunk& chunk);
  bool Weigh(const Chunk& chunk, Partial& partial);
  void AddVotes(std::size_t i, std::uint64_t position, std::size_t length, float* logits) const;
  [[nodiscard]] ConstBlockView Keys(std::size_t block) const { return At(cache_, key_place_, block); }
  [[nodiscard]] ConstBlockView Values(std::size_t block) const { return At(cache_, value_place_, block); }
  [[nodiscard]] static ConstBlockView At(const CachedLayer& cache, const Place& place, std::size_t block) {
    return place.In(cache.blocks[block], cache.sections.empty() ? kMaxParts : cache.sections[block]);
  }

  std::span<const AttendItem> items_;
  const Member* members_;  ///< of the tile
  const TileRun& unit_;
  const CachedLayer& cache_;  ///< of the first item: what a tile of several items reads is the same in all
  const SeenBlocks seen_;
  const HeadCodecs& codecs_;
  const Place key_place_;
  const Place value_place_;
  const StoreSpec& spec_;
  ThreadBuffers& buffers_;
  std::span<const RawRows> keys_;  ///< for each of the item's raw rows, where its keys are after RoPE
  const Units& units_;
  std::size_t group_;
  std::size_t acc_floats_;
  PrefetchStream prefetch_;
  bool sparse_ = false;         ///< the values of most blocks of the last chunk were not needed
  float skipped_[kMaxQueries];  ///< weight that was left out, in units of the running maximum
  float raw_max_[kMaxQueries];  ///< of the item's raw rows, where other units did them
  float raw_sum_[kMaxQueries];  ///< their weight, divided by the number of units that may rely on it
  bool needed_[kMaxChunkBlocks];
};

/// Adds `from` to `to`, `count` queries each.
void Merge(const Partial& from, Partial& to, std::size_t count, std::size_t acc_floats, std::size_t dim);

/// Writes the outputs and log-sum-exps of a tile of one item.
void Finish(const AttendItem& item, const TileRun& tile, ThreadBuffers& buffers, const Partial& partial);

}  // namespace kvant::quantizers
