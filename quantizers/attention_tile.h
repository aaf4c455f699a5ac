// The inner part of attention: one tile of queries of one KV head against one run of blocks. See quantizers/attention.h.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "quantizers/aligned_buffer.h"
#include "quantizers/attention.h"

namespace kvant::quantizers {

/// Positions [begin, end).
struct Range {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  [[nodiscard]] bool empty() const noexcept { return begin >= end; }
};

/// What query t of an item sees.
Range Visible(const Query& query, std::size_t t);

/// Query heads per KV head.
std::size_t GroupSize(const AttendItem& item);

/// A tile: queries [first, first + count) of one KV head's group, numbered token * group + head of the group.
struct TileRun {
  std::size_t item = 0;
  std::size_t head = 0;
  std::size_t first = 0;
  std::size_t count = 0;
  std::size_t block_begin = 0;  ///< blocks of this run
  std::size_t block_end = 0;
  bool raw = false;  ///< this run also takes the raw rows
  std::size_t run = 0;
  std::size_t runs = 1;
  std::size_t partial = 0;  ///< where this unit's partial result lies, in floats; used if runs > 1
};

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

  Partial(float* memory, std::size_t count, std::size_t acc_floats, std::size_t dim)
      : max(memory + count * (acc_floats + dim)),
        code_sum(max + count),
        raw_sum(code_sum + count),
        code_acc(memory),
        raw_acc(memory + count * acc_floats) {}

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
  std::size_t turned = 0;
  std::size_t accumulate = 0;

  void Cover(const Sizes& other) {
    queries = std::max(queries, other.queries);
    prepared = std::max(prepared, other.prepared);
    logits = std::max(logits, other.logits);
    partial = std::max(partial, other.partial);
    rows = std::max(rows, other.rows);
    turned = std::max(turned, other.turned);
    accumulate = std::max(accumulate, other.accumulate);
  }
};

/// What a tile of `count` queries of this item needs.
Sizes SizesOf(const AttendItem& item, std::size_t count);

/// One thread's buffers.
struct ThreadBuffers {
  AlignedBuffer queries;  ///< [count, head_dim] floats, times the softmax scale
  AlignedBuffer prepared;
  AlignedBuffer logits;   ///< [count, chunk]
  AlignedBuffer partial;  ///< a Partial, where the unit has only one run
  AlignedBuffer rows;     ///< [count, head_dim] floats
  AlignedBuffer turned;   ///< [some tokens, head_dim] floats: raw keys after RoPE
  AlignedBuffer accumulate;

  void Reserve(const Sizes& sizes) {
    queries.Reserve(sizes.queries);
    prepared.Reserve(sizes.prepared);
    logits.Reserve(sizes.logits);
    partial.Reserve(sizes.partial);
    rows.Reserve(sizes.rows);
    turned.Reserve(sizes.turned);
    accumulate.Reserve(sizes.accumulate);
  }
};

/// Attends to the run's blocks and raw rows; overwrites `partial`.
void Attend(const AttendItem& item, const TileRun& run, ThreadBuffers& buffers, Partial& partial);

/// Adds run `from` to run `to` of the same tile. `to` is the first run, the only one with raw rows.
void Merge(const Partial& from, Partial& to, std::size_t count, std::size_t acc_floats, std::size_t dim);

/// Writes the tile's outputs and log-sum-exps.
void Finish(const AttendItem& item, const TileRun& run, ThreadBuffers& buffers, const Partial& partial);

}  // namespace kvant::quantizers
