#include "quantizers/attention.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "kernels/dot.h"
#include "kernels/rope.h"
#include "kernels/rows.h"
#include "kernels/softmax.h"
#include "kernels/weighted_sum.h"
#include "quantizers/aligned_buffer.h"

namespace kvant::quantizers {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// A run is what one thread takes of one KV head's context. The number of runs of an item is bounded by its queries, so that the
// partial results of a large prompt (which has tiles enough to keep every thread busy) stay small.
constexpr std::size_t kRunTokens = 4096;
constexpr std::size_t kMaxPartialQueries = 2048;
// Logits of a chunk stay in L1/L2 between scoring, softmax and accumulation.
constexpr std::size_t kFewQueries = 16;
constexpr std::size_t kChunkTokens = 1024;
constexpr std::size_t kChunkTokensManyQueries = 512;
constexpr std::size_t kRawChunkTokens = 512;
// Raw rows of pre-RoPE layers are turned in pieces of this size.
constexpr std::size_t kTurnTokens = 64;
// Below this many (query, token) pairs a hand-off to another thread costs more than it saves.
constexpr std::size_t kInlineWork = 1u << 15;

/// Positions [begin, end).
struct Range {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  [[nodiscard]] bool empty() const noexcept { return begin >= end; }
};

/// What query t of an item sees.
Range Visible(const Query& query, std::size_t t) {
  const std::uint64_t end = query.first_position + t + 1;
  return {query.window != 0 && end > query.window ? end - query.window : 0, end};
}

/// A tile: queries [first, first + count) of one KV head's group, numbered token * group + head of the group.
struct Unit {
  std::size_t item = 0;
  std::size_t head = 0;
  std::size_t first = 0;
  std::size_t count = 0;
  std::size_t block_begin = 0;  ///< blocks of this run
  std::size_t block_end = 0;
  bool raw = false;             ///< this run also takes the raw rows
  std::size_t run = 0;
  std::size_t runs = 1;
  std::size_t partial = 0;      ///< where this unit's partial result lies, in floats; used if runs > 1
};

/// One tile's running softmax: maximum and sums per query, accumulators in the value codec's space and in row space.
struct Partial {
  float* max = nullptr;        ///< [count]
  float* code_sum = nullptr;   ///< [count] weights that went through the value codec
  float* raw_sum = nullptr;    ///< [count] weights of raw rows
  float* code_acc = nullptr;   ///< [count, accumulator_floats]
  float* raw_acc = nullptr;    ///< [count, head_dim]

  static std::size_t Floats(std::size_t count, std::size_t acc_floats, std::size_t dim) { return count * (3 + acc_floats + dim); }

  Partial(float* memory, std::size_t count, std::size_t acc_floats, std::size_t dim)
      : max(memory + count * (acc_floats + dim)),
        code_sum(max + count),
        raw_sum(code_sum + count),
        code_acc(memory),
        raw_acc(memory + count * acc_floats) {}

  void Clear(std::size_t count, std::size_t acc_floats, std::size_t dim) {
    std::fill_n(code_acc, count * acc_floats, 0.0f);
    std::fill_n(raw_acc, count * dim, 0.0f);
    std::fill_n(max, count, -kInfinity);
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

/// One thread's buffers.
struct ThreadBuffers {
  AlignedBuffer queries;     ///< [count, head_dim] floats, times the softmax scale
  AlignedBuffer prepared;
  AlignedBuffer logits;      ///< [count, chunk]
  AlignedBuffer partial;     ///< a Partial, where the unit has only one run
  AlignedBuffer rows;        ///< [count, head_dim] floats
  AlignedBuffer turned;      ///< [kTurnTokens, head_dim] floats: raw keys after RoPE
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

std::size_t GroupSize(const AttendItem& item) { return item.query.q.heads / item.cache.plan->spec().kv_heads; }

std::size_t ChunkTokens(std::size_t queries) { return queries <= kFewQueries ? kChunkTokens : kChunkTokensManyQueries; }

std::size_t ChunkBlocks(std::size_t queries, std::size_t block_tokens) {
  return std::max<std::size_t>(1, ChunkTokens(queries) / block_tokens);
}

Sizes SizesOf(const AttendItem& item, std::size_t count) {
  const StoreSpec& spec = item.cache.plan->spec();
  const LayerCodecs& codecs = item.cache.plan->layer(item.cache.layer);
  const std::size_t chunk = std::max(ChunkBlocks(count, spec.block_tokens) * spec.block_tokens, kRawChunkTokens);
  Sizes sizes;
  sizes.queries = count * spec.head_dim * sizeof(float);
  sizes.prepared = codecs.keys->prepared_bytes(count);
  sizes.logits = count * chunk * sizeof(float);
  sizes.partial = Partial::Floats(count, codecs.values->accumulator_floats(), spec.head_dim) * sizeof(float);
  sizes.rows = count * spec.head_dim * sizeof(float);
  sizes.turned = codecs.keys->pre_rope() ? kTurnTokens * spec.head_dim * sizeof(float) : 0;
  sizes.accumulate = codecs.values->accumulate_scratch_bytes(count);
  return sizes;
}

/// The work of one unit on one thread's buffers. Made anew for every unit; owns nothing.
class TileRun {
 public:
  TileRun(const AttendItem& item, const Unit& unit, ThreadBuffers& buffers)
      : cache_(item.cache),
        query_(item.query),
        codecs_(item.cache.plan->layer(item.cache.layer)),
        spec_(item.cache.plan->spec()),
        unit_(unit),
        buffers_(buffers),
        rope_(codecs_.keys->pre_rope() ? &item.cache.plan->rope() : nullptr),
        group_(GroupSize(item)),
        acc_floats_(codecs_.values->accumulator_floats()) {}

  /// Attends to the unit's blocks and raw rows, into `partial`.
  void Attend(Partial& partial) {
    partial.Clear(unit_.count, acc_floats_, spec_.head_dim);
    LoadQueries(partial);
    const Range seen = TileVisible();
    if (unit_.raw) {
      for (const RawRows& raw : cache_.raw) AttendRaw(raw, seen, partial);
    }
    if (unit_.block_begin < unit_.block_end) {
      codecs_.keys->PrepareQueries(unit_.head, buffers_.queries.Floats(), unit_.count, buffers_.prepared.data());
      AttendBlocks(seen, partial);
    }
  }

  /// Writes the tile's outputs and log-sum-exps.
  void Finish(const Partial& partial) {
    const std::size_t dim = spec_.head_dim;
    float* rows = buffers_.rows.Floats();
    codecs_.values->Finish(unit_.head, partial.code_acc, acc_floats_, partial.code_sum, unit_.count, rows);
    for (std::size_t i = 0; i < unit_.count; ++i) {
      const std::size_t token = (unit_.first + i) / group_;
      const std::size_t head = unit_.head * group_ + (unit_.first + i) % group_;
      float max = partial.max[i];
      float sum = partial.code_sum[i] + partial.raw_sum[i];
      float factor = 1.0f;
      if (query_.sink_logits != nullptr) {
        const float sink = query_.sink_logits[head];
        const float all = std::max(max, sink);
        factor = max == -kInfinity ? 0.0f : std::exp(max - all);
        sum = sum * factor + (sink == -kInfinity ? 0.0f : std::exp(sink - all));
        max = all;
      }
      float* row = rows + i * dim;
      kernels::AddScaled(partial.raw_acc + i * dim, dim, 1.0f, row);
      kernels::Rescale(row, dim, sum == 0.0f ? 0.0f : factor / sum);
      auto* out = static_cast<std::byte*>(query_.out.data) +
                  (token * query_.out.token_stride + head * query_.out.head_stride) * ElementBytes(query_.out.type);
      kernels::StoreRow(row, dim, query_.out.type, out);
      if (query_.lse != nullptr) query_.lse[token * query_.q.heads + head] = sum == 0.0f ? -kInfinity : max + std::log(sum);
    }
  }

 private:
  [[nodiscard]] const std::byte* QueryRow(std::size_t token, std::size_t head) const {
    return static_cast<const std::byte*>(query_.q.data) +
           (token * query_.q.token_stride + head * query_.q.head_stride) * ElementBytes(query_.q.type);
  }

  /// Codecs round queries to integers, so one with NaN or infinity is replaced by zeros, and the NaN put into its sum comes out.
  void LoadQueries(Partial& partial) {
    const std::size_t dim = spec_.head_dim;
    for (std::size_t i = 0; i < unit_.count; ++i) {
      const std::size_t token = (unit_.first + i) / group_;
      const std::size_t head = unit_.head * group_ + (unit_.first + i) % group_;
      float* row = buffers_.queries.Floats() + i * dim;
      const float largest = kernels::LoadRow(QueryRow(token, head), query_.q.type, dim, row);
      if (largest <= FLT_MAX) {
        kernels::Rescale(row, dim, query_.scale);
      } else {
        std::fill_n(row, dim, 0.0f);
        partial.raw_sum[i] = std::numeric_limits<float>::quiet_NaN();
      }
    }
  }

  [[nodiscard]] std::size_t Token(std::size_t i) const { return (unit_.first + i) / group_; }

  /// Positions that any query of the tile sees.
  [[nodiscard]] Range TileVisible() const {
    return {Visible(query_, Token(0)).begin, Visible(query_, Token(unit_.count - 1)).end};
  }

  /// Logits of positions [chunk.begin, chunk.end) to weights: cap, mask, running maximum; rescales what was accumulated.
  /// `sums` is where the weights' sum goes. Returns false if all weights are 0.
  bool Softmax(const Range& chunk, std::size_t stride, bool mask_raw, Partial& partial, float* sums) {
    const auto length = static_cast<std::size_t>(chunk.end - chunk.begin);
    bool any = false;
    for (std::size_t i = 0; i < unit_.count; ++i) {
      float* logits = buffers_.logits.Floats() + i * stride;
      if (query_.softcap > 0.0f) kernels::SoftCap(logits, length, query_.softcap);
      Mask(chunk, Visible(query_, Token(i)), mask_raw, logits);
      const float max = kernels::MaxOf(logits, length);
      if (max == -kInfinity) {
        std::fill_n(logits, length, 0.0f);
        continue;
      }
      if (max == kInfinity) {  // a logit beyond f32
        std::fill_n(logits, length, 0.0f);
        sums[i] = std::numeric_limits<float>::quiet_NaN();
        continue;
      }
      any = true;
      if (max > partial.max[i]) {
        if (partial.max[i] != -kInfinity) {
          const float factor = std::exp(partial.max[i] - max);
          kernels::Rescale(partial.code_acc + i * acc_floats_, acc_floats_, factor);
          kernels::Rescale(partial.raw_acc + i * spec_.head_dim, spec_.head_dim, factor);
          partial.code_sum[i] *= factor;
          partial.raw_sum[i] *= factor;
        }
        partial.max[i] = max;
      }
      sums[i] += kernels::ExpShifted(logits, length, partial.max[i]);
    }
    return any;
  }

  /// Sets the logits of positions that this query does not see, or that raw rows cover, to -infinity.
  void Mask(const Range& chunk, const Range& visible, bool mask_raw, float* logits) const {
    const auto hide = [&](std::uint64_t begin, std::uint64_t end) {
      begin = std::max(begin, chunk.begin);
      end = std::min(end, chunk.end);
      if (begin < end) std::fill(logits + (begin - chunk.begin), logits + (end - chunk.begin), -kInfinity);
    };
    hide(chunk.begin, visible.begin);
    hide(visible.end, chunk.end);
    if (!mask_raw) return;
    for (const RawRows& raw : cache_.raw) hide(raw.first_position, raw.first_position + raw.count);
  }

  /// True if raw rows cover all of the range.
  [[nodiscard]] bool RawCovers(Range range) const {
    for (const RawRows& raw : cache_.raw) {
      if (raw.first_position <= range.begin && raw.first_position + raw.count > range.begin) {
        range.begin = raw.first_position + raw.count;
        if (range.empty()) return true;
      }
    }
    return false;
  }

  void AttendRaw(const RawRows& raw, const Range& seen, Partial& partial) {
    const Range rows{std::max(raw.first_position, seen.begin), std::min(raw.first_position + raw.count, seen.end)};
    for (std::uint64_t begin = rows.begin; begin < rows.end; begin += kRawChunkTokens) {
      const Range chunk{begin, std::min<std::uint64_t>(rows.end, begin + kRawChunkTokens)};
      const auto length = static_cast<std::size_t>(chunk.end - chunk.begin);
      ScoreRaw(raw, chunk);
      if (!Softmax(chunk, kRawChunkTokens, /*mask_raw=*/false, partial, partial.raw_sum)) continue;
      kernels::WeightedSumRows(buffers_.logits.Floats(), kRawChunkTokens, unit_.count, RawView(raw, raw.values, chunk.begin, length),
                               partial.raw_acc, spec_.head_dim);
    }
  }

  [[nodiscard]] RowsView RawView(const RawRows& raw, const void* base, std::uint64_t position, std::size_t count) const {
    const auto row = static_cast<std::size_t>(position - raw.first_position);
    const auto* data = static_cast<const std::byte*>(base) + (unit_.head * raw.head_stride + row * raw.row_stride) * ElementBytes(raw.type);
    return {data, raw.type, count, spec_.head_dim, raw.row_stride};
  }

  void ScoreRaw(const RawRows& raw, const Range& chunk) {
    const float* queries = buffers_.queries.Floats();
    float* logits = buffers_.logits.Floats();
    const auto length = static_cast<std::size_t>(chunk.end - chunk.begin);
    if (rope_ == nullptr) {
      kernels::DotRows(queries, unit_.count, RawView(raw, raw.keys, chunk.begin, length), logits, kRawChunkTokens);
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
      kernels::DotRows(queries, unit_.count, rows, logits + done, kRawChunkTokens);
    }
  }

  [[nodiscard]] const std::byte* Keys(std::size_t block) const {
    return cache_.blocks[block] + codecs_.offset + unit_.head * codecs_.head_stride;
  }

  void AttendBlocks(const Range& seen, Partial& partial) {
    const std::size_t tokens = spec_.block_tokens;
    const std::size_t per_chunk = ChunkBlocks(unit_.count, tokens);
    const std::size_t stride = per_chunk * tokens;
    for (std::size_t first = unit_.block_begin; first < unit_.block_end; first += per_chunk) {
      const std::size_t last = std::min(unit_.block_end, first + per_chunk);
      AttendChunk(first, last, stride, seen, partial);
    }
  }

  void AttendChunk(std::size_t first, std::size_t last, std::size_t stride, const Range& seen, Partial& partial) {
    const std::uint64_t tokens = spec_.block_tokens;
    const std::size_t keys_bytes = codecs_.keys->block_bytes();
    const std::size_t values_bytes = codecs_.values->block_bytes();
    float* logits = buffers_.logits.Floats();
    // While the keys are scored the values come, and while the values are added up the next chunk's keys do.
    for (std::size_t b = first; b < last; ++b) {
      float* out = logits + (b - first) * tokens;
      if (Hidden(b, seen)) {
        for (std::size_t i = 0; i < unit_.count; ++i) std::fill_n(out + i * stride, tokens, -kInfinity);
        continue;
      }
      codecs_.keys->Score(unit_.head, b * tokens, buffers_.prepared.data(), unit_.count, Keys(b), out, stride,
                          Keys(b) + codecs_.values_offset, values_bytes);
    }
    const Range chunk{first * tokens, last * tokens};
    if (!Softmax(chunk, stride, /*mask_raw=*/true, partial, partial.code_sum)) return;
    for (std::size_t b = first; b < last; ++b) {
      if (Hidden(b, seen)) continue;
      const std::size_t ahead = b + (last - first);
      const std::byte* next = ahead < unit_.block_end ? Keys(ahead) : nullptr;
      codecs_.values->Accumulate(unit_.head, logits + (b - first) * tokens, stride, unit_.count, Keys(b) + codecs_.values_offset,
                                 partial.code_acc, acc_floats_, buffers_.accumulate.data(), next, next == nullptr ? 0 : keys_bytes);
    }
  }

  /// True if no query of the tile takes anything from this block.
  [[nodiscard]] bool Hidden(std::size_t block, const Range& seen) const {
    const std::uint64_t tokens = spec_.block_tokens;
    const Range range{std::max(block * tokens, seen.begin), std::min((block + 1) * tokens, seen.end)};
    return range.empty() || RawCovers(range);
  }

  const CachedLayer& cache_;
  const Query& query_;
  const LayerCodecs& codecs_;
  const StoreSpec& spec_;
  const Unit& unit_;
  ThreadBuffers& buffers_;
  const kernels::Rope* rope_;  ///< null unless the layer's raw keys are pre-RoPE
  std::size_t group_;
  std::size_t acc_floats_;
};

/// Adds run `from` to run `to` of the same tile. `to` is the first run, the only one with raw rows.
void Merge(const Partial& from, Partial& to, std::size_t count, std::size_t acc_floats, std::size_t dim) {
  for (std::size_t i = 0; i < count; ++i) {
    const float max = std::max(from.max[i], to.max[i]);
    if (from.max[i] == -kInfinity) continue;
    if (max > to.max[i]) {
      const float factor = to.max[i] == -kInfinity ? 0.0f : std::exp(to.max[i] - max);
      kernels::Rescale(to.code_acc + i * acc_floats, acc_floats, factor);
      kernels::Rescale(to.raw_acc + i * dim, dim, factor);
      to.code_sum[i] *= factor;
      to.raw_sum[i] *= factor;
      to.max[i] = max;
    }
    const float factor = std::exp(from.max[i] - max);
    kernels::AddScaled(from.code_acc + i * acc_floats, acc_floats, factor, to.code_acc + i * acc_floats);
    to.code_sum[i] += from.code_sum[i] * factor;
  }
}

}  // namespace

class AttentionScratch {
 public:
  std::vector<Unit> units;
  std::vector<std::pair<std::size_t, std::size_t>> split;  ///< [first, last) units of tiles with several runs
  std::vector<ThreadBuffers> threads;
  AlignedBuffer partials;
};

namespace {

/// Cuts one item into units: KV heads, tiles of queries, runs of blocks. Depends on the item's shapes alone, never on the threads or
/// on the rest of the batch.
class UnitList {
 public:
  explicit UnitList(AttentionScratch& scratch) : scratch_(scratch) {
    scratch_.units.clear();
    scratch_.split.clear();
  }

  void Add(const AttendItem& item, std::size_t index) {
    const StoreSpec& spec = item.cache.plan->spec();
    const std::size_t group_queries = item.query.q.tokens * GroupSize(item);
    const std::size_t most_runs = std::max<std::size_t>(1, kMaxPartialQueries / std::max<std::size_t>(1, item.query.q.tokens * item.query.q.heads));
    for (std::size_t head = 0; head < spec.kv_heads; ++head) {
      for (std::size_t first = 0; first < group_queries; first += kMaxQueries) {
        AddTile(item, {.item = index, .head = head, .first = first, .count = std::min(kMaxQueries, group_queries - first)}, most_runs);
      }
    }
  }

  [[nodiscard]] std::size_t partial_floats() const noexcept { return partial_floats_; }
  [[nodiscard]] std::size_t work() const noexcept { return work_; }
  [[nodiscard]] const Sizes& sizes() const noexcept { return sizes_; }

 private:
  void AddTile(const AttendItem& item, Unit unit, std::size_t most_runs) {
    const StoreSpec& spec = item.cache.plan->spec();
    const std::size_t group = GroupSize(item);
    const std::uint64_t begin = Visible(item.query, unit.first / group).begin;
    const std::uint64_t end = Visible(item.query, (unit.first + unit.count - 1) / group).end;
    const std::size_t tokens = spec.block_tokens;
    const std::size_t block_end = std::min<std::size_t>(item.cache.blocks.size(), static_cast<std::size_t>((end + tokens - 1) / tokens));
    const std::size_t block_begin = std::min<std::size_t>(block_end, static_cast<std::size_t>(begin / tokens));
    const std::size_t blocks = block_end - block_begin;
    const std::size_t run_blocks = std::max<std::size_t>(1, kRunTokens / tokens);
    unit.runs = std::clamp<std::size_t>((blocks + run_blocks - 1) / run_blocks, 1, most_runs);
    const Sizes sizes = SizesOf(item, unit.count);
    sizes_.Cover(sizes);
    work_ += unit.count * static_cast<std::size_t>(end - begin);
    const std::size_t first_unit = scratch_.units.size();
    for (unit.run = 0; unit.run < unit.runs; ++unit.run) {
      unit.block_begin = block_begin + blocks * unit.run / unit.runs;
      unit.block_end = block_begin + blocks * (unit.run + 1) / unit.runs;
      unit.raw = unit.run == 0;
      unit.partial = partial_floats_;
      if (unit.runs > 1) partial_floats_ += (sizes.partial / sizeof(float) + 15) / 16 * 16;
      scratch_.units.push_back(unit);
    }
    if (unit.runs > 1) scratch_.split.emplace_back(first_unit, scratch_.units.size());
  }

  AttentionScratch& scratch_;
  Sizes sizes_;
  std::size_t partial_floats_ = 0;
  std::size_t work_ = 0;
};

/// What the tasks of one call share.
struct Call {
  std::span<const AttendItem> items;
  AttentionScratch* scratch = nullptr;

  void AttendUnit(std::size_t index, std::size_t thread) {
    const Unit& unit = scratch->units[index];
    const AttendItem& item = items[unit.item];
    ThreadBuffers& buffers = scratch->threads[thread];
    const bool whole = unit.runs == 1;
    Partial partial = View(item, unit, whole ? buffers.partial.Floats() : scratch->partials.Floats() + unit.partial);
    TileRun run(item, unit, buffers);
    run.Attend(partial);
    if (whole) run.Finish(partial);
  }

  void MergeTile(std::size_t index, std::size_t thread) {
    const auto [first, last] = scratch->split[index];
    const Unit& unit = scratch->units[first];
    const AttendItem& item = items[unit.item];
    Partial sum = View(item, unit, scratch->partials.Floats() + unit.partial);
    for (std::size_t i = first + 1; i < last; ++i) {
      const Partial part = View(item, unit, scratch->partials.Floats() + scratch->units[i].partial);
      Merge(part, sum, unit.count, AccFloats(item), item.cache.plan->spec().head_dim);
    }
    TileRun(item, unit, scratch->threads[thread]).Finish(sum);
  }

  static std::size_t AccFloats(const AttendItem& item) {
    return item.cache.plan->layer(item.cache.layer).values->accumulator_floats();
  }
  static Partial View(const AttendItem& item, const Unit& unit, float* memory) {
    return {memory, unit.count, AccFloats(item), item.cache.plan->spec().head_dim};
  }
};

}  // namespace

Attention::Attention(Executor& executor) : executor_(executor), scratch_(std::make_unique<AttentionScratch>()) {}

Attention::~Attention() = default;

void Attention::Run(std::span<const AttendItem> items) {
  UnitList list(*scratch_);
  for (std::size_t i = 0; i < items.size(); ++i) list.Add(items[i], i);
  scratch_->threads.resize(executor_.threads());
  for (ThreadBuffers& buffers : scratch_->threads) buffers.Reserve(list.sizes());
  scratch_->partials.Reserve(list.partial_floats() * sizeof(float));

  Call call{items, scratch_.get()};
  const auto attend = [](void* context, std::size_t i, std::size_t thread) { static_cast<Call*>(context)->AttendUnit(i, thread); };
  const auto merge = [](void* context, std::size_t i, std::size_t thread) { static_cast<Call*>(context)->MergeTile(i, thread); };
  if (list.work() < kInlineWork) {
    for (std::size_t i = 0; i < scratch_->units.size(); ++i) call.AttendUnit(i, 0);
    for (std::size_t i = 0; i < scratch_->split.size(); ++i) call.MergeTile(i, 0);
    return;
  }
  executor_.ForEach(scratch_->units.size(), attend, &call);
  if (!scratch_->split.empty()) executor_.ForEach(scratch_->split.size(), merge, &call);
}

namespace {

Error Invalid(std::string message) { return Error{ErrorCode::kInvalidArgument, "attend: " + std::move(message)}; }

Result<void> CheckTensors(const Query& query, const StoreSpec& spec) {
  const ConstTensorView& q = query.q;
  if (q.dim != spec.head_dim) return Invalid("q.dim " + std::to_string(q.dim) + " is not the store's head_dim " + std::to_string(spec.head_dim));
  if (q.heads == 0 || q.heads % spec.kv_heads != 0) {
    return Invalid("q.heads " + std::to_string(q.heads) + " is not a multiple of the store's kv_heads " + std::to_string(spec.kv_heads));
  }
  if (query.out.tokens != q.tokens || query.out.heads != q.heads || query.out.dim != q.dim) {
    return Invalid("out is [" + std::to_string(query.out.tokens) + ", " + std::to_string(query.out.heads) + ", " + std::to_string(query.out.dim) +
                   "], q is [" + std::to_string(q.tokens) + ", " + std::to_string(q.heads) + ", " + std::to_string(q.dim) + "]");
  }
  if (q.tokens != 0 && (q.data == nullptr || query.out.data == nullptr)) return Invalid("q or out has no data");
  return {};
}

Result<void> CheckNumbers(const Query& query) {
  if (!std::isfinite(query.scale)) return Invalid("scale " + std::to_string(query.scale) + " is not finite");
  if (!std::isfinite(query.softcap) || query.softcap < 0) {
    return Invalid("softcap " + std::to_string(query.softcap) + " is neither 0 nor positive and finite");
  }
  if (query.sink_logits != nullptr) {
    for (std::size_t h = 0; h < query.q.heads; ++h) {
      if (!std::isfinite(query.sink_logits[h])) return Invalid("sink_logits[" + std::to_string(h) + "] is not finite");
    }
  }
  return {};
}

/// Raw rows in order and disjoint, and with the blocks covering every position before `end`.
Result<void> CheckCoverage(const CachedLayer& cache, const StoreSpec& spec, std::uint64_t end) {
  std::uint64_t raw_end = 0;
  std::uint64_t covered = std::uint64_t{cache.blocks.size()} * spec.block_tokens;
  for (std::size_t i = 0; i < cache.raw.size(); ++i) {
    const RawRows& raw = cache.raw[i];
    const std::string where = "raw[" + std::to_string(i) + "]";
    if (raw.count == 0) continue;
    if (raw.keys == nullptr || raw.values == nullptr) return Invalid(where + " has no data");
    if (raw.count > std::numeric_limits<std::uint64_t>::max() - raw.first_position) return Invalid(where + " overflows");
    if (raw.first_position < raw_end) return Invalid(where + " starts at " + std::to_string(raw.first_position) + ", before the end of the piece before");
    raw_end = raw.first_position + raw.count;
    if (raw.first_position <= covered) covered = std::max(covered, raw_end);
  }
  if (covered < end) {
    return Error{ErrorCode::kOutOfRange, "attend: blocks and raw rows cover positions up to " + std::to_string(covered) +
                                             ", the queries need them up to " + std::to_string(end)};
  }
  return {};
}

}  // namespace

Result<void> CheckItem(const AttendItem& item) {
  if (item.cache.plan == nullptr) return Invalid("no plan");
  const Plan& plan = *item.cache.plan;
  if (item.cache.layer >= plan.layers()) {
    return Error{ErrorCode::kOutOfRange, "attend: layer " + std::to_string(item.cache.layer) + " of " + std::to_string(plan.layers())};
  }
  if (auto ok = CheckTensors(item.query, plan.spec()); !ok) return ok;
  if (auto ok = CheckNumbers(item.query); !ok) return ok;
  if (item.query.q.tokens > std::numeric_limits<std::uint64_t>::max() - item.query.first_position) {
    return Invalid("first_position " + std::to_string(item.query.first_position) + " overflows");
  }
  const bool gap = std::ranges::find(item.cache.blocks, nullptr) != item.cache.blocks.end();
  if (gap) return Invalid("a block has no data");
  return CheckCoverage(item.cache, plan.spec(), item.query.first_position + item.query.q.tokens);
}

}  // namespace kvant::quantizers
