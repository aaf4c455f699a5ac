// Decode attention over the blocks of a sequence, as a warp does it: logits from codes of keys, online softmax, sums of codes
// of values. A warp takes every n-th block of one KV head for a tile of up to 8 query rows and ends with one partial result per
// row.
//
// What the processor's kernels compute and this does not, to the bit: weights (2^x is the hardware's) and the order in which
// partial results meet. Logits are theirs, before a soft-cap.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/lanes.h"
#include "kernels/cuda/warp_keys.h"
#include "kernels/cuda/warp_values.h"

namespace kvant::kernels::cuda {

/// A warp's own shared memory.
template <int kDim, int kRows, int kStep>
struct WarpMemory {
  QueryMemory<kDim, kRows> queries;
  WeightMemory<kRows, kStep> weights;
};

inline namespace KVANT_LANES {

/// The query rows of a tile that are a lane's, and which tokens they see.
template <int kEach>
struct LaneRows {
  Lanes<int> from[kEach];
  Lanes<int> to[kEach];
};

template <int kKeyBits, int kValueBits, int kDim, int kRows, int kStep>
struct AttendWarp {
  using Keys = WarpKeys<kKeyBits, kDim, kRows, kStep>;
  using Values = WarpValues<Keys, kValueBits, kDim, kRows, kStep>;
  using Memory = WarpMemory<kDim, kRows, kStep>;
  static constexpr int kEach = kRows / 4;  ///< rows of a lane

  const HeadBlocks& blocks;
  Keys keys;
  Values values;

  KVANT_WARP AttendWarp(const HeadBlocks& the_blocks, const HeadLogits& logits, const float* rows, Memory& memory)
      : blocks(the_blocks), keys(the_blocks, logits, rows, memory.queries), values(the_blocks, memory.weights) {}

  [[nodiscard]] KVANT_WARP std::size_t SlotOf(int block) const {
    return static_cast<std::size_t>(blocks.slots[block < blocks.end_block ? block : blocks.first_block]) * blocks.slot_bytes;
  }

  /// Every `stride`th block from `first_block + first` on. `prepared`: the thread block's queries. `seen`: of the lane's rows.
  KVANT_WARP void Run(const typename Keys::Memory& prepared, int first, int stride, const LaneRows<kEach>& seen) {
    const int steps = blocks.block_tokens / kStep;
    values.Begin();
    int block = blocks.first_block + first;
    if (block >= blocks.end_block) return;
    std::size_t slot = SlotOf(block), next_slot = SlotOf(block + stride);
    keys.Load(slot, 0);
    values.Load(slot, 0);
    keys.Begin(prepared, slot);
    int step = 0;
    KVANT_ROLLED
    while (true) {
      const bool last_step = step + 1 == steps;
      const bool more = !last_step || block + stride < blocks.end_block;
      const int token = block * blocks.block_tokens + step * kStep;
      Step(token, more, last_step ? next_slot : slot, last_step ? 0 : step + 1, seen);
      if (!more) return;
      ++step;
      if (!last_step) continue;
      step = 0;
      block += stride;
      slot = next_slot;
      next_slot = SlotOf(block + stride);
      if (keys.logits.has_mean) keys.TakeGauge(slot);
    }
  }

  /// kStep tokens from `token` on, which are in registers; what comes next, from `slot` and `step`, is loaded in their place.
  KVANT_WARP void Step(int token, bool more, std::size_t slot, int step, const LaneRows<kEach>& seen) {
    typename Keys::Logits x;
    keys.Score(more, slot, step, x);
    if (keys.logits.softcap > 0) Cap(x);
    if (token < blocks.all_from || token + kStep > blocks.all_to) Mask(token, seen, x);
    values.Absorb(more, slot, step, x);
  }

  /// cap * tanh(x / cap), by 1 - 2 / (e^2y + 1): a few roundings of the cap from the exact one, and no branches.
  KVANT_WARP void Cap(typename Keys::Logits& x) const {
    const float cap = keys.logits.softcap, to_exponent = 2.0f * kLog2OfE / cap;
    KVANT_UNROLL
    for (auto& row : x) {
      KVANT_UNROLL
      for (auto& field : row) {
        KVANT_UNROLL
        for (auto& logit : field) logit = Quotient(Lanes<float>(-2.0f * cap), Exp2(logit * to_exponent) + 1.0f) + cap;
      }
    }
  }

  KVANT_WARP void Mask(int token, const LaneRows<kEach>& seen, typename Keys::Logits& x) const {
    KVANT_UNROLL
    for (int q = 0; q < kEach; ++q) {
      KVANT_UNROLL
      for (int s = 0; s < Keys::Codes::kFields; ++s) {
        KVANT_UNROLL
        for (int k = 0; k < Keys::kTokensOfLane; ++k) {
          const Lanes<int> at = keys.first_token + (token + 16 * s + k);
          const auto hidden = Select(at < seen.from[q], Lanes<bool>(true), Lanes<bool>(at >= seen.to[q]));
          x[q][s][k] = Select(hidden, Lanes<float>(-INFINITY), x[q][s][k]);
        }
      }
    }
  }
};

}  // namespace KVANT_LANES
}  // namespace kvant::kernels::cuda
