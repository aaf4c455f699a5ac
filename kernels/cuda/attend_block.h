// A thread block of decode attention: four warps share the blocks of one KV head, and the last thread block of a head's merges
// what all of them found.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attend_warp.h"
#include "kernels/cuda/lanes.h"
#include "kernels/cuda/plan.h"

namespace kvant::kernels::cuda {

/// One tile of query rows of one KV head of one sequence.
struct Tile {
  int sequence = 0;
  int head = 0;
  int first_row = 0;
  int rows = 0;
};

template <int kKeyBits_, int kValueBits_, int kDim_, int kRows_>
struct AttendShape {
  static constexpr int kKeyBits = kKeyBits_, kValueBits = kValueBits_, kDim = kDim_, kRows = kRows_;
  static constexpr int kStep = StepTokens(kKeyBits, kValueBits, kDim);
  /// Of a partial result: sums of the rows, then their largest logits, then their weights.
  static constexpr int kPartialFloats = PartialFloats(kRows, kDim);

  struct Memory {
    alignas(16) float rows[kRows * kDim];
    QueryMemory<kDim, kRows> prepared;
    union {  // first the one, then the other
      WarpMemory<kDim, kRows, kStep> warps[kWarps];
      WarpResult<kDim, kRows> results[kWarps];
    };
    int last;
  };
};

inline namespace KVANT_LANES {
template <class Shape>
struct AttendBlock {
  static constexpr int kDim = Shape::kDim, kRows = Shape::kRows;
  static constexpr int kOfLane = kDim / kWarpLanes;  ///< dims of a lane, adjacent
  static constexpr int kEach = kRows / 4;
  using Warp = AttendWarp<Shape::kKeyBits, Shape::kValueBits, kDim, kRows, Shape::kStep>;
  using Memory = typename Shape::Memory;

  const AttendPlan& plan;
  Memory& memory;
  Tile tile;
  HeadBlocks blocks;
  HeadLogits logits;
  int position = 0;
  int cached = 0;

  KVANT_WARP AttendBlock(const AttendPlan& the_plan, Memory& the_memory, int index) : plan(the_plan), memory(the_memory) {
    const AttendArgs& args = plan.args;
    const int head = index / plan.tiles;
    tile = {head / args.kv_heads, head % args.kv_heads, index % plan.tiles * kRows, args.tokens * args.group};
    tile.rows = tile.rows - tile.first_row < kRows ? tile.rows - tile.first_row : kRows;
    cached = args.cached[tile.sequence];
    position = args.positions == nullptr ? cached : args.positions[tile.sequence];
    const int first = tile.first_row / args.group, last = (tile.first_row + tile.rows - 1) / args.group;
    blocks.keys = args.slots + args.key_offset + static_cast<std::size_t>(tile.head) * args.head_bytes;
    blocks.values = args.slots + args.value_offset + static_cast<std::size_t>(tile.head) * args.head_bytes;
    blocks.slot_bytes = args.slot_bytes;
    blocks.slots = args.table + static_cast<std::int64_t>(tile.sequence) * args.table_stride;
    blocks.block_tokens = args.block_tokens;
    blocks.first_block = From(first) / args.block_tokens;
    blocks.end_block = (To(last) + args.block_tokens - 1) / args.block_tokens;
    blocks.all_from = From(last);
    blocks.all_to = To(first);
    const int sign_words = plan.map.rounds * kDim / 32;
    logits = {plan.map, args.key_signs + tile.head * sign_words, args.gauge != Gauge::kNone, args.gauge == Gauge::kGains,
              args.softcap};
  }

  /// What new token n sees: tokens [From, To) of the blocks.
  [[nodiscard]] KVANT_WARP int From(int n) const {
    const int window = static_cast<int>(plan.args.window);
    return window == 0 || position + n < window ? 0 : position + n - window + 1;
  }
  [[nodiscard]] KVANT_WARP int To(int n) const { return position + n < cached ? position + n + 1 : cached; }
  [[nodiscard]] KVANT_WARP int Heads() const { return plan.args.kv_heads * plan.args.group; }

  /// Rows beyond the tile's are the last one again.
  [[nodiscard]] KVANT_WARP LaneRows<kEach> Seen() const {
    const int group = plan.args.group;
    LaneRows<kEach> seen;
    KVANT_UNROLL
    for (int q = 0; q < kEach; ++q) {
      const Lanes<int> row = (LaneIndex() & 3) * kEach + q;
      const Lanes<int> n = (Select(row < tile.rows, row, tile.rows - 1) + tile.first_row) / group;
      const Lanes<int> at = n + position;
      const int window = static_cast<int>(plan.args.window);
      seen.from[q] = Select(at < window, Lanes<int>(0), at - window + 1);
      if (window == 0) seen.from[q] = 0;
      seen.to[q] = Select(at < cached, at + 1, cached);
    }
    return seen;
  }

  [[nodiscard]] KVANT_WARP std::int64_t RowOffset(int row, std::int64_t sequence, std::int64_t token, std::int64_t head) const {
    const int of_head = tile.first_row + row;
    return tile.sequence * sequence + of_head / plan.args.group * token +
           (tile.head * plan.args.group + of_head % plan.args.group) * head;
  }

  KVANT_WARP void LoadQueries(int warp) const {
    const auto& q = plan.args.q;
    for (int row = warp; row < kRows; row += kWarps) {
      const int real = row < tile.rows ? row : tile.rows - 1;
      const std::int64_t from = RowOffset(real, q.sequence_stride, q.token_stride, q.head_stride);
      KVANT_UNROLL
      for (int i = 0; i < kOfLane; ++i) {
        const Lanes<int> d = LaneIndex() + kWarpLanes * i;
        Put(memory.rows, d + row * kDim, LoadElement(q.data, q.type, Convert<std::int64_t>(d) + from) * plan.args.scale);
      }
    }
  }

  /// The queries as the first block wants them, warps a row each. Most often all blocks have the same gains.
  KVANT_WARP void PrepareQueries(int warp) const {
    auto& prepared = memory.prepared;
    const std::uint8_t* gains = nullptr;
    if (logits.has_gains && blocks.first_block < blocks.end_block) {
      gains = blocks.keys + static_cast<std::size_t>(blocks.slots[blocks.first_block]) * blocks.slot_bytes +
              blocks.block_tokens * (kDim * Shape::kKeyBits / 8 + 2) + 2 * kDim;
      for (int i = warp == 0 ? 0 : kDim; i < kDim; i += kWarpLanes)
        Put(prepared.gains, LaneIndex() + i, Get(gains, LaneIndex() + i));
    }
    KVANT_ROLLED
    for (int row = 0; row < kRows; row += kRowsAtOnce) {
      cuda::PrepareQueries<kDim>(logits.map, logits.key_signs, memory.rows + row * kDim, gains, prepared.numbers + row * kDim,
                                 prepared.scales + row, warp, kWarps);
    }
  }

  [[nodiscard]] KVANT_WARP Warp MakeWarp(int warp) const { return Warp(blocks, logits, memory.rows, memory.warps[warp]); }

  /// A row's sums (dims kOfLane * lane..), largest logit and weight, while parts are added.
  struct Row {
    Lanes<float> sums[kOfLane];
    float top;
    float weight;
  };

  /// What the warps found of a row.
  [[nodiscard]] KVANT_WARP Row MergeWarps(int row) const {
    Row all;
    all.top = kNoLogit;
    all.weight = 0;
    KVANT_UNROLL
    for (auto& sum : all.sums) sum = 0.0f;
    KVANT_UNROLL
    for (int w = 0; w < kWarps; ++w) all.top = LargerOf(all.top, memory.results[w].top[row]);
    KVANT_UNROLL
    for (int w = 0; w < kWarps; ++w) {
      const auto& result = memory.results[w];
      const float share = ExpOf(result.top[row] - all.top);
      all.weight += share * result.weight[row];
      KVANT_UNROLL
      for (int i = 0; i < kOfLane; ++i) {
        all.sums[i] = Fma(Get(result.sums[row], LaneIndex() * kOfLane + i), Lanes<float>(share), all.sums[i]);
      }
    }
    return all;
  }

  [[nodiscard]] KVANT_WARP float* PartialOf(int index, int split) const {
    return plan.partials + (static_cast<std::int64_t>(index) * plan.splits + split) * Shape::kPartialFloats;
  }
  KVANT_WARP void LeavePartial(float* partial, int row, const Row& all) const {
    PutSharedRun(partial, LaneIndex() * kOfLane + row * kDim, all.sums);
    PutShared(partial, Lanes<int>(kRows * kDim + row), Lanes<float>(all.top));
    PutShared(partial, Lanes<int>(kRows * kDim + kRows + row), Lanes<float>(all.weight));
  }

  /// What the thread blocks of `index` found of a row. Lanes hold the splits' tops and weights.
  [[nodiscard]] KVANT_WARP Row MergeSplits(int index, int row) const {
    const float* partials = PartialOf(index, 0);
    const auto at = [&](Lanes<int> split, int number) { return split * Shape::kPartialFloats + number; };
    Lanes<float> top = kNoLogit;
    for (int s = 0; s < plan.splits; s += kWarpLanes) {
      const Lanes<int> split = LaneIndex() + s;
      top = Largest(top, GetShared(partials, at(Select(split < plan.splits, split, 0), kRows * kDim + row)));
    }
    KVANT_UNROLL
    for (int mask = 1; mask < kWarpLanes; mask *= 2) top = Largest(top, ShuffleXor(top, mask));
    Row all;
    KVANT_UNROLL
    for (auto& sum : all.sums) sum = 0.0f;
    Lanes<float> weight = 0.0f;
    constexpr int kBatch = 64 / kOfLane < 16 ? 64 / kOfLane : 16;  // loads in flight, as registers allow
    for (int s = 0; s < plan.splits; s += kWarpLanes) {
      const Lanes<int> split = LaneIndex() + s;
      const auto real = split < plan.splits;
      const Lanes<int> any = Select(real, split, 0);
      const Lanes<float> share =
          Select(real, Exp2((GetShared(partials, at(any, kRows * kDim + row)) - top) * kLog2OfE), Lanes<float>(0.0f));
      weight = Fma(share, GetShared(partials, at(any, kRows * kDim + kRows + row)), weight);
      for (int first = 0; first < kWarpLanes && s + first < plan.splits; first += kBatch) {
        Lanes<float> sums[kBatch][kOfLane];
        KVANT_UNROLL
        for (int j = 0; j < kBatch; ++j) {
          const int split_of_all = s + first + j < plan.splits ? s + first + j : 0;
          GetSharedRun(partials, at(Lanes<int>(split_of_all), row * kDim) + LaneIndex() * kOfLane, sums[j]);
        }
        KVANT_UNROLL
        for (int j = 0; j < kBatch; ++j) {
          const Lanes<float> of_split = FromLane(share, first + j);
          KVANT_UNROLL
          for (int i = 0; i < kOfLane; ++i) all.sums[i] = Fma(sums[j][i], of_split, all.sums[i]);
        }
      }
    }
    KVANT_UNROLL
    for (int mask = 1; mask < kWarpLanes; mask *= 2) weight += ShuffleXor(weight, mask);
    all.top = Uniform(top);
    all.weight = Uniform(weight);
    return all;
  }

  /// Divides, rotates back, stores.
  KVANT_WARP void Finish(int row, Row all) const {
    if (row >= tile.rows) return;
    const AttendArgs& args = plan.args;
    float top = all.top, weight = all.weight;
    float rescale = 1.0f;
    if (args.sink_logits != nullptr) {
      const float sink = args.sink_logits[tile.head * args.group + (tile.first_row + row) % args.group];
      const float most = LargerOf(top, sink);
      rescale = ExpOf(top - most);
      weight = weight * rescale + ExpOf(sink - most) * 0x1p96f;
      top = most;
    }
    const float factor = weight == 0.0f ? 0.0f : plan.out_factor * 0x1p96f * rescale / weight;
    Lanes<float> x[kOfLane];
    KVANT_UNROLL
    for (int i = 0; i < kOfLane; ++i) x[i] = all.sums[i] * factor;
    const std::uint32_t* signs = args.value_signs + tile.head * (plan.map.rounds * kDim / 32);
    for (int round = plan.map.rounds - 1; round >= 0; --round) {
      Sylvester<kOfLane>(x);
      KVANT_UNROLL
      for (int i = 0; i < kOfLane; ++i) {
        x[i] = AsFloat(AsBits(x[i]) ^ SignAt(signs, LaneIndex() * kOfLane + (round * kDim + i)));
      }
    }
    const auto& out = args.out;
    const std::int64_t to = RowOffset(row, out.sequence_stride, out.token_stride, out.head_stride);
    KVANT_UNROLL
    for (int i = 0; i < kOfLane; ++i) {
      StoreElement(out.data, out.type, Convert<std::int64_t>(LaneIndex() * kOfLane + i) + to, x[i]);
    }
    if (args.lse == nullptr) return;
    const std::int64_t at = RowOffset(row, static_cast<std::int64_t>(args.tokens) * Heads(), Heads(), 1);
    const Lanes<float> lse =
        weight == 0.0f ? Lanes<float>(-INFINITY) : Lanes<float>(top) + Log(Lanes<float>(weight * 0x1p-96f));
    StoreElement(args.lse, ElementType::kF32, Lanes<std::int64_t>(at), lse);
  }
};

}  // namespace KVANT_LANES
}  // namespace kvant::kernels::cuda
