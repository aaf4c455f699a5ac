#include "quantizers/attention_tile.h"

#include <cfloat>
#include <cmath>

#include "kernels/dot.h"
#include "kernels/rope.h"
#include "kernels/rows.h"
#include "kernels/softmax.h"
#include "kernels/weighted_sum.h"

namespace kvant::quantizers {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Logits of a chunk stay in L1/L2 between scoring, softmax and accumulation.
constexpr std::size_t kFewQueries = 16;
constexpr std::size_t kChunkTokens = 1024;
constexpr std::size_t kChunkTokensManyQueries = 512;
constexpr std::size_t kRawChunkTokens = 512;
// Raw rows of pre-RoPE layers are turned in pieces of this size.
constexpr std::size_t kTurnTokens = 64;

std::size_t ChunkTokens(std::size_t queries) { return queries <= kFewQueries ? kChunkTokens : kChunkTokensManyQueries; }

std::size_t ChunkBlocks(std::size_t queries, std::size_t block_tokens) {
  return std::max<std::size_t>(1, ChunkTokens(queries) / block_tokens);
}

/// The work of one unit on one thread's buffers. Made anew for every unit; owns nothing.
class TileWork {
 public:
  TileWork(const AttendItem& item, const TileRun& unit, ThreadBuffers& buffers)
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

  /// Codecs round queries to integers, so one with NaN or infinity is replaced by zeros, and the NaN put into its sum comes
  /// out.
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
      kernels::WeightedSumRows(buffers_.logits.Floats(), kRawChunkTokens, unit_.count,
                               RawView(raw, raw.values, chunk.begin, length), partial.raw_acc, spec_.head_dim);
    }
  }

  [[nodiscard]] RowsView RawView(const RawRows& raw, const void* base, std::uint64_t position, std::size_t count) const {
    const auto row = static_cast<std::size_t>(position - raw.first_position);
    const auto* data =
        static_cast<const std::byte*>(base) + (unit_.head * raw.head_stride + row * raw.row_stride) * ElementBytes(raw.type);
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
      codecs_.values->Accumulate(unit_.head, logits + (b - first) * tokens, stride, unit_.count,
                                 Keys(b) + codecs_.values_offset, partial.code_acc, acc_floats_, buffers_.accumulate.data(),
                                 next, next == nullptr ? 0 : keys_bytes);
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
  const TileRun& unit_;
  ThreadBuffers& buffers_;
  const kernels::Rope* rope_;  ///< null unless the layer's raw keys are pre-RoPE
  std::size_t group_;
  std::size_t acc_floats_;
};

}  // namespace

Range Visible(const Query& query, std::size_t t) {
  const std::uint64_t end = query.first_position + t + 1;
  return {query.window != 0 && end > query.window ? end - query.window : 0, end};
}

std::size_t GroupSize(const AttendItem& item) { return item.query.q.heads / item.cache.plan->spec().kv_heads; }

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

void Attend(const AttendItem& item, const TileRun& run, ThreadBuffers& buffers, Partial& partial) {
  TileWork(item, run, buffers).Attend(partial);
}

void Finish(const AttendItem& item, const TileRun& run, ThreadBuffers& buffers, const Partial& partial) {
  TileWork(item, run, buffers).Finish(partial);
}

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

}  // namespace kvant::quantizers
