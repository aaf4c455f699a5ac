// Keys, as a warp takes them: queries are made what codes are, codes become logits.
//
// Columns of the products are query rows. Four rows: row j stands in columns 2 j and 2 j + 1, one product parts both fields of
// a pair, and a lane has one row. Eight: two products part them, and a lane has two rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/fragments.h"
#include "kernels/cuda/lanes.h"
#include "kernels/cuda/query.h"

namespace kvant::kernels::cuda {

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

/// What a warp keeps of its queries, in shared memory.
template <int kDim, int kRows>
struct QueryMemory {
  alignas(16) std::uint8_t numbers[kRows * kDim];
  alignas(16) std::uint8_t gains[kDim];
  float scales[kRows];
};

inline namespace KVANT_LANES {

template <int kBits, int kDim, int kRows, int kStep>
struct WarpKeys {
  static_assert(kRows == 4 || kRows == 8);
  using Codes = CodeShape<kBits, kDim, kStep>;
  using Memory = QueryMemory<kDim, kRows>;
  static constexpr int kEach = kRows / 4;            ///< rows of a lane
  static constexpr int kPairs = Codes::kFields / 2;  ///< of fields
  static constexpr int kHalves = Codes::kTokensOfLane / 2;
  static constexpr int kTokensOfLane = Codes::kTokensOfLane;
  /// Whether registers hold what parts the fields; else it is made of the queries' words each time.
  static constexpr bool kPartEarly = kRows == 4 && kDim <= 128;
  static constexpr int kGainLoads = (kDim + 127) / 128;

  const HeadBlocks& blocks;
  const HeadLogits& logits;
  const float* rows;  ///< [kRows, kDim] queries times the softmax scale, in shared memory
  Memory& memory;

  Lanes<int> lane = LaneIndex();
  Lanes<int> offset = KeyOffset<Codes, kDim>(lane);
  Lanes<int> first_token = FirstToken<Codes>(lane);

  // Of the step that is next: registers are the pipeline.
  Quad codes[Codes::kKeyLoads];
  Pair scales[Codes::kFields];

  Lanes<std::uint32_t> query[kPartEarly ? 2 * Codes::kKeyLoads : Codes::kKeyLoads];
  Lanes<float> query_scale[kEach];
  Lanes<float> bias[kEach];

  KVANT_WARP WarpKeys(const HeadBlocks& the_blocks, const HeadLogits& the_logits, const float* the_rows, Memory& the_memory)
      : blocks(the_blocks), logits(the_logits), rows(the_rows), memory(the_memory) {}

  [[nodiscard]] KVANT_WARP int CodesBytes() const { return blocks.block_tokens * (kDim * kBits / 8); }

  KVANT_WARP void LoadPiece(std::size_t slot, int step, int i) {
    codes[i] = LoadKeys<Codes>(blocks.keys + slot + step * Codes::kCodesBytes + i * kKeyLoadStride, offset);
  }
  KVANT_WARP void LoadScales(std::size_t slot, int step) {
    KVANT_UNROLL
    for (int s = 0; s < Codes::kFields; ++s) {
      scales[s] = ScalesOf<Codes>(blocks.keys + slot + CodesBytes() + step * (2 * kStep) + s * 32, first_token * 2);
    }
  }
  KVANT_WARP void Load(std::size_t slot, int step) {
    KVANT_UNROLL
    for (int i = 0; i < Codes::kKeyLoads; ++i) LoadPiece(slot, step, i);
    LoadScales(slot, step);
  }

  /// Words of the queries' numbers as columns of the right factor.
  KVANT_WARP void TakeQueries() {
    const auto* words = reinterpret_cast<const std::uint32_t*>(memory.numbers);
    const Lanes<int> g = lane >> 2, t = lane & 3;
    KVANT_UNROLL
    for (int i = 0; i < Codes::kKeyLoads; ++i) {
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

  /// Queries for other gains than those before, which the memory keeps.
  KVANT_WARP void Prepare() {
    KVANT_ROLLED
    for (int row = 0; row < kRows; row += kRowsAtOnce) {
      PrepareQueries<kDim>(logits.map, logits.key_signs, rows + row * kDim, memory.gains, memory.numbers + row * kDim,
                           memory.scales + row, 0, 1);
    }
    SyncWarp();
    TakeQueries();
  }

  /// What a block's gauge says, once per block: queries meet its gains, and <q, mean> is added to logits.
  KVANT_WARP void TakeGauge(std::size_t slot) {
    const std::uint8_t* gauge = blocks.keys + slot + CodesBytes() + blocks.block_tokens * 2;
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
    Lanes<bool> differ = false;
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
    SyncWarp();
    Prepare();
  }

  /// Begins with the queries that the thread block has prepared, and with what block `slot` makes of them.
  KVANT_WARP void Begin(const Memory& prepared, std::size_t slot) {
    const auto* from = reinterpret_cast<const std::uint32_t*>(&prepared);
    auto* to = reinterpret_cast<std::uint32_t*>(&memory);
    constexpr int kWords = sizeof(Memory) / sizeof(std::uint32_t);
    KVANT_UNROLL
    for (int i = 0; i < kWords; i += kWarpLanes) {
      const Lanes<int> at = Select(lane + i < kWords, lane + i, kWords - 1);
      Put(to, at, Get(from, at));
    }
    SyncWarp();
    TakeQueries();
    KVANT_UNROLL
    for (auto& each : bias) each = 0.0f;
    if (logits.has_mean) TakeGauge(slot);
  }

  /// Of a lane's rows: that of token first_token + 16 s + k of the step is [s][k].
  using Logits = Lanes<float>[kEach][Codes::kFields][kTokensOfLane];

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
    for (int i = 0; i < Codes::kKeyLoads; ++i) {
      const Quad loaded = codes[i];
      KVANT_UNROLL
      for (int half = 0; half < kHalves; ++half) {
        Lanes<std::uint32_t> a[Codes::kFields], b[Codes::kFields];
        Expand<kBits>(loaded.word[2 * half], a);
        Expand<kBits>(loaded.word[2 * half + 1], b);
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
      if (more) LoadPiece(slot, step, i);
    }

    KVANT_UNROLL
    for (int pair = 0; pair < kPairs; ++pair) {
      KVANT_UNROLL
      for (int part = 0; part < 2; ++part) {
        const int s = FieldOf<kBits>(pair, part);
        KVANT_UNROLL
        for (int k = 0; k < kTokensOfLane; ++k) {
          const Lanes<float> scale = ScaleOf(scales[s], k) * 0x1p96f;
          KVANT_UNROLL
          for (int q = 0; q < kEach; ++q) {
            const Lanes<std::int32_t> sum =
                kRows == 4 ? score[pair][k / 2][0][2 * (k % 2) + part] : score[pair][k / 2][part % kEach][2 * (k % 2) + q];
            x[q][s][k] = SumOf(sum) * scale * query_scale[q] + bias[q];
          }
        }
      }
    }
    if (more) LoadScales(slot, step);
  }
};

}  // namespace KVANT_LANES
}  // namespace kvant::kernels::cuda
