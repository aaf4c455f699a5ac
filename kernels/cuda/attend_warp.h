// Decode attention over the blocks of a sequence, as a warp does it: logits from codes of keys, online softmax, sums of codes
// of values. A warp takes every n-th block of one KV head for a tile of up to 8 query rows and ends with one partial result per
// row.
//
// Columns of the products are query rows. Four rows: row j stands in columns 2 j and 2 j + 1, one product parts both fields of
// a pair, and a lane has one row. Eight: two products part them, and a lane has two rows.
//
// What the processor's kernels compute and this does not, to the bit: weights (2^x is the hardware's) and the order in which
// partial results meet. Logits are theirs, before a soft-cap.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/fragments.h"
#include "kernels/cuda/lanes.h"
#include "kernels/cuda/query.h"

namespace kvant::kernels::cuda {

inline constexpr float kLogOfTwo = 0.6931471805599453f;
inline constexpr float kLog2OfE = 1.4426950408889634f;
/// What stands for minus infinity where differences are taken.
inline constexpr float kNoLogit = -1e30f;

/// Where a head's blocks are and which tokens take part. Uniform over a thread block.
struct HeadBlocks {
  const std::uint8_t* keys = nullptr;  ///< of slot 0: codes, scales, then the gauge
  const std::uint8_t* values = nullptr;
  std::size_t slot_bytes = 0;
  const std::int32_t* slots = nullptr;  ///< of the sequence's blocks
  int block_tokens = 0;
  int first_block = 0;  ///< what comes before, no row sees
  int end_block = 0;
  int all_from = 0;  ///< every row sees every token in [all_from, all_to)
  int all_to = 0;
};

/// How logits come about.
struct HeadLogits {
  QueryMap map;
  const std::uint32_t* key_signs = nullptr;
  bool has_mean = false;   ///< [dim] f16 behind the scales
  bool has_gains = false;  ///< [dim] bytes behind the mean
  float softcap = 0;       ///< 0: none
};

/// A warp's own shared memory.
template <int kDim, int kRows, int kStep>
struct WarpMemory {
  alignas(16) std::uint8_t numbers[kRows * kDim];  ///< of the queries
  alignas(16) std::uint8_t gains[kDim];
  float scales[kRows];
  /// Integer weights, a byte each; rows padded so that eight of them are read without conflicts.
  alignas(16) std::uint8_t weights[kRows][kStep + 16];
};

/// What a thread block's warps hand to each other.
template <int kDim, int kRows>
struct WarpResult {
  float sums[kRows][kDim + 4];  ///< in the values' rotated coordinates, times 2^96 over the weights below
  float top[kRows];             ///< largest logit
  float weight[kRows];          ///< sum of exp(logit - top), times 2^96
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
  static_assert(kRows == 4 || kRows == 8);
  using Keys = CodeShape<kKeyBits, kDim, kStep>;
  using Values = CodeShape<kValueBits, kDim, kStep>;
  using Memory = WarpMemory<kDim, kRows, kStep>;
  static constexpr int kEach = kRows / 4;           ///< rows of a lane
  static constexpr int kPairs = Keys::kFields / 2;  ///< of fields of keys
  static constexpr int kHalves = Keys::kTokensOfLane / 2;
  static constexpr int kTokensOfLane = Keys::kTokensOfLane;
  /// Whether registers hold what parts the fields; else it is made of the queries' words each time.
  static constexpr bool kPartEarly = kRows == 4 && kDim <= 128;
  static constexpr int kGainLoads = (kDim + 127) / 128;

  const HeadBlocks& blocks;
  const HeadLogits& logits;
  const float* rows;  ///< [kRows, kDim] queries times the softmax scale, in shared memory
  Memory& memory;

  Lanes<int> lane = LaneIndex();
  Lanes<int> key_offset = KeyOffset<Keys, kDim>(lane);
  Lanes<int> value_offset = ValueOffset<kDim>(lane);
  Lanes<int> first_token = FirstToken<Keys>(lane);

  // Of the step that is next: registers are the pipeline.
  Quad keys[Keys::kKeyLoads];
  Pair key_scales[Keys::kFields];
  Quad values[Values::kValueLoads];
  Pair value_scales[Keys::kFields];

  Lanes<std::uint32_t> query[kPartEarly ? 2 * Keys::kKeyLoads : Keys::kKeyLoads];
  Lanes<float> query_scale[kEach];
  Lanes<float> bias[kEach];
  Lanes<float> sums[kDim / 16][2 * kEach];
  Lanes<float> top[kEach];
  Lanes<float> weight[kEach];

  KVANT_WARP AttendWarp(const HeadBlocks& the_blocks, const HeadLogits& the_logits, const float* the_rows, Memory& the_memory)
      : blocks(the_blocks), logits(the_logits), rows(the_rows), memory(the_memory) {}

  [[nodiscard]] KVANT_WARP std::size_t SlotOf(int block) const {
    return static_cast<std::size_t>(blocks.slots[block < blocks.end_block ? block : blocks.first_block]) * blocks.slot_bytes;
  }
  [[nodiscard]] KVANT_WARP int KeyCodesBytes() const { return blocks.block_tokens * (kDim * kKeyBits / 8); }
  [[nodiscard]] KVANT_WARP int ValueCodesBytes() const { return blocks.block_tokens * (kDim * kValueBits / 8); }

  KVANT_WARP void LoadKeyPiece(std::size_t slot, int step, int i) {
    keys[i] = LoadKeys<Keys>(blocks.keys + slot + step * Keys::kCodesBytes + i * kKeyLoadStride, key_offset);
  }
  KVANT_WARP void LoadValuePiece(std::size_t slot, int step, int i, int c) {
    values[i * (kDim / 32) + c] =
        Load16(blocks.values + slot + step * Values::kCodesBytes + ValueLoadOffset<kDim>(i, c), value_offset);
  }
  KVANT_WARP void LoadScalesOfKeys(std::size_t slot, int step) {
    KVANT_UNROLL
    for (int s = 0; s < Keys::kFields; ++s) {
      key_scales[s] = LoadScales<Keys>(blocks.keys + slot + KeyCodesBytes() + step * (2 * kStep) + s * 32, first_token * 2);
    }
  }
  KVANT_WARP void LoadScalesOfValues(std::size_t slot, int step) {
    KVANT_UNROLL
    for (int s = 0; s < Keys::kFields; ++s) {
      value_scales[s] =
          LoadScales<Keys>(blocks.values + slot + ValueCodesBytes() + step * (2 * kStep) + s * 32, first_token * 2);
    }
  }

  KVANT_WARP void Load(std::size_t slot, int step) {
    KVANT_UNROLL
    for (int i = 0; i < Keys::kKeyLoads; ++i) LoadKeyPiece(slot, step, i);
    LoadScalesOfKeys(slot, step);
    KVANT_UNROLL
    for (int i = 0; i < Values::kValueTiles; ++i) {
      KVANT_UNROLL
      for (int c = 0; c < kDim / 32; ++c) LoadValuePiece(slot, step, i, c);
    }
    LoadScalesOfValues(slot, step);
  }

  /// Words of the queries' numbers as columns of the right factor.
  KVANT_WARP void TakeQueries() {
    const auto* words = reinterpret_cast<const std::uint32_t*>(memory.numbers);
    const Lanes<int> g = lane >> 2, t = lane & 3;
    KVANT_UNROLL
    for (int i = 0; i < Keys::kKeyLoads; ++i) {
      const Lanes<std::uint32_t> word = Get(words, (kRows == 4 ? g >> 1 : g) * (kDim / 4) + t + 4 * i);
      if constexpr (kPartEarly) {
        query[2 * i] = Permute(word, Lanes<std::uint32_t>(0u), Parts(g & 1, 0));
        query[2 * i + 1] = Permute(word, Lanes<std::uint32_t>(0u), Parts(g & 1, 1));
      } else {
        query[i] = word;
      }
    }
    KVANT_UNROLL
    for (int q = 0; q < kEach; ++q) query_scale[q] = Get(memory.scales, t * kEach + q);
  }

  /// Which bytes of a query's word meet field `part` of a pair, in the `half`th half of the word: (q0, 0, q1, 0) or (0, q0,
  /// 0, q1).
  static KVANT_WARP Lanes<std::uint32_t> Parts(Lanes<int> part, int half) {
    const Lanes<std::uint32_t> even = half == 0 ? 0x4140u : 0x4342u, odd = half == 0 ? 0x1404u : 0x3424u;
    return Select(part != 0, odd, even);
  }

  KVANT_WARP void Prepare(const std::uint8_t* gains) {
    SyncWarp();
    for (int row = 0; row < kRows; row += kRowsAtOnce) {
      PrepareQueries<kDim>(logits.map, logits.key_signs, rows + row * kDim, gains, memory.numbers + row * kDim,
                           memory.scales + row);
    }
    SyncWarp();
    TakeQueries();
  }

  /// What a block's gauge says, once per block: queries meet its gains, and <q, mean> is added to logits.
  KVANT_WARP void TakeGauge(std::size_t slot, bool first) {
    const std::uint8_t* gauge = blocks.keys + slot + KeyCodesBytes() + blocks.block_tokens * 2;
    Lanes<float> dots[kRows / kRowsAtOnce];
    KVANT_UNROLL
    for (int part = 0; part < kRows / kRowsAtOnce; ++part) {
      const Lanes<int> own = (lane >> 3) * kDim + (lane & 7) * 2 + part * (kRowsAtOnce * kDim);
      Lanes<std::uint32_t> mean = 0u;
      dots[part] = SumsOfRows<kDim>([&](int k, int j) {
        if (j == 0) mean = Load4(gauge, (lane & 7) * 4 + 32 * k);
        return Get(rows, own + (16 * k + j)) * HalfToFloat(j == 0 ? mean & 0xFFFFu : mean >> 16);
      });
    }
    KVANT_UNROLL
    for (int q = 0; q < kEach; ++q) {
      const Lanes<int> row = (lane & 3) * kEach + q;
      bias[q] = FromLane(dots[0], (row & 3) * 8);
      if constexpr (kRows == 8) bias[q] = Select((row & 4) != 0, FromLane(dots[1], (row & 3) * 8), bias[q]);
    }
    if (!logits.has_gains) return;
    auto* kept = reinterpret_cast<std::uint32_t*>(memory.gains);
    Lanes<bool> differ = first;
    Lanes<std::uint32_t> gains[kGainLoads];
    KVANT_UNROLL
    for (int i = 0; i < kGainLoads; ++i) {
      const Lanes<int> at = kDim < 128 ? lane & (kDim / 4 - 1) : lane + 32 * i;
      gains[i] = Load4(gauge, at * 4 + 2 * kDim);
      differ = Select(gains[i] != Get(kept, at), Lanes<bool>(true), differ);
    }
    if (!Any(differ)) return;
    SyncWarp();
    KVANT_UNROLL
    for (int i = 0; i < kGainLoads; ++i) Put(kept, kDim < 128 ? lane & (kDim / 4 - 1) : lane + 32 * i, gains[i]);
    Prepare(memory.gains);
  }

  /// Queries as the first block wants them.
  KVANT_WARP void Begin(std::size_t slot) {
    if (!logits.has_gains) Prepare(nullptr);
    if (logits.has_mean) TakeGauge(slot, true);
  }

  /// Every `stride`th block from `first_block + first` on. `seen`: of the lane's rows.
  KVANT_WARP void Run(int first, int stride, const LaneRows<kEach>& seen) {
    const int steps = blocks.block_tokens / kStep;
    KVANT_UNROLL
    for (int q = 0; q < kEach; ++q) {
      top[q] = kNoLogit;
      weight[q] = 0.0f;
      bias[q] = 0.0f;
    }
    KVANT_UNROLL
    for (auto& pair : sums) {
      KVANT_UNROLL
      for (auto& sum : pair) sum = 0.0f;
    }
    int block = blocks.first_block + first;
    if (block >= blocks.end_block) return;
    std::size_t slot = SlotOf(block), next_slot = SlotOf(block + stride);
    Load(slot, 0);
    Begin(slot);
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
      if (logits.has_mean) TakeGauge(slot, false);
    }
  }

  /// Of a lane's rows: that of token first_token + 16 s + k of the step is [s][k].
  using Logits = Lanes<float>[kEach][Keys::kFields][kTokensOfLane];

  /// kStep tokens from `token` on, which are in registers; what comes next, from `slot` and `step`, is loaded in their place.
  KVANT_WARP void Step(int token, bool more, std::size_t slot, int step, const LaneRows<kEach>& seen) {
    Logits x;
    Score(more, slot, step, x);
    if (logits.softcap > 0) Cap(x);
    if (token < blocks.all_from || token + kStep > blocks.all_to) Mask(token, seen, x);
    Absorb(more, slot, step, x);
  }

  KVANT_WARP void Score(bool more, std::size_t slot, int step, Logits& x) {
    Sums score[kPairs][kHalves][kEach];
    KVANT_UNROLL
    for (auto& pair : score) {
      KVANT_UNROLL
      for (auto& half : pair) {
        KVANT_UNROLL
        for (auto& part : half) BeginSums(part);
      }
    }
    KVANT_UNROLL
    for (int i = 0; i < Keys::kKeyLoads; ++i) {
      const Quad codes = keys[i];
      KVANT_UNROLL
      for (int half = 0; half < kHalves; ++half) {
        Lanes<std::uint32_t> a[Keys::kFields], b[Keys::kFields];
        Expand<kKeyBits>(codes.word[2 * half], a);
        Expand<kKeyBits>(codes.word[2 * half + 1], b);
        KVANT_UNROLL
        for (int pair = 0; pair < kPairs; ++pair) {
          const Lanes<std::uint32_t> left[4] = {a[2 * pair], b[2 * pair], a[2 * pair + 1], b[2 * pair + 1]};
          if constexpr (kPartEarly) {
            MultiplySigned(score[pair][half][0], left, query[2 * i], query[2 * i + 1]);
            continue;
          }
          const Lanes<std::uint32_t> zero = 0u;
          KVANT_UNROLL
          for (int part = 0; part < kEach; ++part) {  // of four rows, a column's own
            const Lanes<int> which = kRows == 4 ? (lane >> 2) & 1 : Lanes<int>(part);
            MultiplySigned(score[pair][half][part], left, Permute(query[i], zero, Parts(which, 0)),
                           Permute(query[i], zero, Parts(which, 1)));
          }
        }
      }
      if (more) LoadKeyPiece(slot, step, i);
    }

    KVANT_UNROLL
    for (int pair = 0; pair < kPairs; ++pair) {
      KVANT_UNROLL
      for (int part = 0; part < 2; ++part) {
        const int s = FieldOf<kKeyBits>(pair, part);
        KVANT_UNROLL
        for (int k = 0; k < kTokensOfLane; ++k) {
          const Lanes<float> scale = ScaleOf(key_scales[s], k) * 0x1p96f;
          KVANT_UNROLL
          for (int q = 0; q < kEach; ++q) {
            const Lanes<std::int32_t> sum =
                kRows == 4 ? score[pair][k / 2][0][2 * (k % 2) + part] : score[pair][k / 2][part % kEach][2 * (k % 2) + q];
            x[q][s][k] = SumOf(sum) * scale * query_scale[q] + bias[q];
          }
        }
      }
    }
    if (more) LoadScalesOfKeys(slot, step);
  }

  /// Logits become weights, and weighted sums of values' codes join the others.
  KVANT_WARP void Absorb(bool more, std::size_t slot, int step, Logits& x) {
    Lanes<float> shrink[kEach], unit[kEach];
    KVANT_UNROLL
    for (int q = 0; q < kEach; ++q) {
      Lanes<float> most = top[q];
      KVANT_UNROLL
      for (auto& field : x[q]) {
        KVANT_UNROLL
        for (auto& logit : field) most = Largest(most, logit);
      }
      KVANT_UNROLL
      for (int mask = 4; mask < kWarpLanes; mask *= 2) most = Largest(most, ShuffleXor(most, mask));
      shrink[q] = Exp2((top[q] - most) * kLog2OfE);
      const Lanes<float> shift = Fma(-most, Lanes<float>(kLog2OfE), Lanes<float>(96.0f));  // undoes ScaleOf's 2^-96
      top[q] = most;
      weight[q] *= shrink[q];
      Lanes<float> largest = 0.0f;
      KVANT_UNROLL
      for (int s = 0; s < Keys::kFields; ++s) {
        KVANT_UNROLL
        for (int k = 0; k < kTokensOfLane; ++k) {
          const Lanes<float> e = Exp2(Fma(x[q][s][k], Lanes<float>(kLog2OfE), shift));
          weight[q] += e;
          x[q][s][k] = e * ScaleOf(value_scales[s], k);
          largest = Largest(largest, x[q][s][k]);
        }
      }
      KVANT_UNROLL
      for (int mask = 4; mask < kWarpLanes; mask *= 2) largest = Largest(largest, ShuffleXor(largest, mask));
      const Lanes<float> factor = Quotient(Lanes<float>(255.0f), Largest(largest, 1e-30f));
      unit[q] = largest * (1.0f / 255.0f);
      PutWeights(x[q], factor, (lane & 3) * kEach + q);
    }
    if (more) LoadScalesOfValues(slot, step);
    SyncWarp();
    Lanes<std::uint32_t> right[Values::kValueTiles][Values::kFields];
    TakeWeights(right);
    SyncWarp();
    KVANT_UNROLL
    for (int c = 0; c < kDim / 32; ++c) {
      KVANT_UNROLL
      for (int half = 0; half < 2; ++half) {
        Sums total;
        BeginSums(total);
        KVANT_UNROLL
        for (int i = 0; i < Values::kValueTiles; ++i) {
          const Quad& codes = values[i * (kDim / 32) + c];
          Lanes<std::uint32_t> a[Values::kFields], b[Values::kFields];
          Expand<kValueBits>(codes.word[2 * half], a);
          Expand<kValueBits>(codes.word[2 * half + 1], b);
          KVANT_UNROLL
          for (int pair = 0; pair < Values::kFields / 2; ++pair) {
            const Lanes<std::uint32_t> left[4] = {a[2 * pair], b[2 * pair], a[2 * pair + 1], b[2 * pair + 1]};
            MultiplyUnsigned(total, left, right[i][2 * pair], right[i][2 * pair + 1]);
          }
        }
        KVANT_UNROLL
        for (int row = 0; row < 2; ++row) {
          KVANT_UNROLL
          for (int q = 0; q < kEach; ++q) {
            Lanes<float>& sum = sums[2 * c + half][row * kEach + q];
            sum = Fma(sum, shrink[q], SumOf(total[2 * row + q]) * unit[q]);
          }
        }
      }
      KVANT_UNROLL
      for (int i = 0; i < Values::kValueTiles; ++i) {
        if (more) LoadValuePiece(slot, step, i, c);
      }
    }
  }

  KVANT_WARP void Cap(Logits& x) const {
    KVANT_UNROLL
    for (auto& row : x) {
      KVANT_UNROLL
      for (auto& field : row) {
        KVANT_UNROLL
        for (auto& logit : field) logit = Tanh(logit / logits.softcap) * logits.softcap;
      }
    }
  }

  KVANT_WARP void Mask(int token, const LaneRows<kEach>& seen, Logits& x) const {
    KVANT_UNROLL
    for (int q = 0; q < kEach; ++q) {
      KVANT_UNROLL
      for (int s = 0; s < Keys::kFields; ++s) {
        KVANT_UNROLL
        for (int k = 0; k < kTokensOfLane; ++k) {
          const Lanes<int> at = first_token + (token + 16 * s + k);
          const auto hidden = Select(at < seen.from[q], Lanes<bool>(true), Lanes<bool>(at >= seen.to[q]));
          x[q][s][k] = Select(hidden, Lanes<float>(-INFINITY), x[q][s][k]);
        }
      }
    }
  }

  /// Weights of one row to bytes, in the order of tokens.
  KVANT_WARP void PutWeights(const Lanes<float> (&x)[Keys::kFields][kTokensOfLane], Lanes<float> factor, Lanes<int> row) {
    constexpr int kRowBytes = sizeof(memory.weights[0]);
    auto* bytes = &memory.weights[0][0];
    KVANT_UNROLL
    for (int s = 0; s < Keys::kFields; ++s) {
      Lanes<std::uint32_t> pair[kHalves];
      KVANT_UNROLL
      for (int half = 0; half < kHalves; ++half) {
        const Lanes<std::uint32_t> low = AsBits(Fma(x[s][2 * half], factor, Lanes<float>(kSumBase)));
        const Lanes<std::uint32_t> high = AsBits(Fma(x[s][2 * half + 1], factor, Lanes<float>(kSumBase)));
        pair[half] = Permute(low, high, 0x0040u);
      }
      const Lanes<int> at = row * kRowBytes + first_token + 16 * s;
      if constexpr (kHalves == 2) {
        Put(reinterpret_cast<std::uint32_t*>(bytes), at >> 2, Permute(pair[0], pair[1], 0x5410u));
      } else {
        Put(reinterpret_cast<std::uint16_t*>(bytes), at >> 1, Convert<std::uint16_t>(pair[0]));
      }
    }
  }

  /// Weights as the right factor, in the order in which Expand leaves the fields of values.
  KVANT_WARP void TakeWeights(Lanes<std::uint32_t> (&right)[Values::kValueTiles][Values::kFields]) const {
    constexpr int kRowBytes = sizeof(memory.weights[0]);
    const Lanes<int> g = lane >> 2, t = lane & 3;
    const Lanes<int> row = (kRows == 4 ? g >> 1 : g) * kRowBytes;
    KVANT_UNROLL
    for (int i = 0; i < Values::kValueTiles; ++i) {
      const Lanes<int> at = row + (t + 4 * i) * (4 * Values::kFields);
      if constexpr (kValueBits == 2) {
        const Quad w = GetQuad(&memory.weights[0][0], at);
        right[i][0] = Permute(w.word[0], w.word[2], 0x5140u);
        right[i][1] = Permute(w.word[0], w.word[2], 0x7362u);
        right[i][2] = Permute(w.word[1], w.word[3], 0x5140u);
        right[i][3] = Permute(w.word[1], w.word[3], 0x7362u);
      } else {
        const Pair w = GetPair(&memory.weights[0][0], at);
        right[i][0] = Permute(w.word[0], w.word[1], 0x5140u);
        right[i][1] = Permute(w.word[0], w.word[1], 0x7362u);
      }
    }
  }

  /// What the warp has found, for others.
  KVANT_WARP void Leave(WarpResult<kDim, kRows>& result) const {
    const Lanes<int> g = lane >> 2, t = lane & 3;
    KVANT_UNROLL
    for (int q = 0; q < kEach; ++q) {
      Lanes<float> all = weight[q];
      KVANT_UNROLL
      for (int mask = 4; mask < kWarpLanes; mask *= 2) all += ShuffleXor(all, mask);
      const Lanes<int> row = t * kEach + q;
      KVANT_UNROLL
      for (int i = 0; i < kDim / 16; ++i) {
        KVANT_UNROLL
        for (int r = 0; r < 2; ++r) {
          Put(&result.sums[0][0], row * (kDim + 4) + g * 4 + (32 * (i / 2) + 2 * (i % 2) + r), sums[i][r * kEach + q]);
        }
      }
      PutIf(g == 0, result.top, row, top[q]);
      PutIf(g == 0, result.weight, row, all);
    }
  }
};

}  // namespace KVANT_LANES
}  // namespace kvant::kernels::cuda
