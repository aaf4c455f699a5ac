// Values, as a warp takes them: logits become weights of a byte each, codes of values are summed with them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/fragments.h"
#include "kernels/cuda/lanes.h"
#include "kernels/cuda/warp_keys.h"

namespace kvant::kernels::cuda {

inline constexpr float kLog2OfE = 1.4426950408889634f;
/// What stands for minus infinity where differences are taken.
inline constexpr float kNoLogit = -1e30f;

/// Integer weights, a byte each, in shared memory; rows padded so that eight of them are read without conflicts.
template <int kRows, int kStep>
struct WeightMemory {
  alignas(16) std::uint8_t rows[kRows][kStep + 16];
};

/// What a thread block's warps hand to each other.
template <int kDim, int kRows>
struct WarpResult {
  float sums[kRows][kDim + 4];  ///< in the values' rotated coordinates, times 2^96 over the weights below
  float top[kRows];             ///< largest logit
  float weight[kRows];          ///< sum of exp(logit - top), times 2^96
};

inline namespace KVANT_LANES {

/// `Keys`: the WarpKeys whose logits come in.
template <class Keys, int kBits, int kDim, int kRows, int kStep>
struct WarpValues {
  using Codes = CodeShape<kBits, kDim, kStep>;
  using Memory = WeightMemory<kRows, kStep>;
  static constexpr int kEach = kRows / 4;

  const HeadBlocks& blocks;
  Memory& memory;

  Lanes<int> lane = LaneIndex();
  Lanes<int> offset = ValueOffset<kDim>(lane);
  Lanes<int> first_token = FirstToken<typename Keys::Codes>(lane);

  // Of the step that is next.
  Quad codes[Codes::kValueLoads];
  Pair scales[Keys::Codes::kFields];

  Lanes<float> sums[kDim / 16][2 * kEach];
  Lanes<float> top[kEach];
  Lanes<float> weight[kEach];

  KVANT_WARP WarpValues(const HeadBlocks& the_blocks, Memory& the_memory) : blocks(the_blocks), memory(the_memory) {}

  [[nodiscard]] KVANT_WARP int CodesBytes() const { return blocks.block_tokens * (kDim * kBits / 8); }

  KVANT_WARP void LoadPiece(std::size_t slot, int step, int i, int c) {
    codes[i * (kDim / 32) + c] = Load16(blocks.values + slot + step * Codes::kCodesBytes + ValueLoadOffset<kDim>(i, c), offset);
  }
  KVANT_WARP void LoadScales(std::size_t slot, int step) {
    KVANT_UNROLL
    for (int s = 0; s < Keys::Codes::kFields; ++s) {
      scales[s] =
          ScalesOf<typename Keys::Codes>(blocks.values + slot + CodesBytes() + step * (2 * kStep) + s * 32, first_token * 2);
    }
  }
  KVANT_WARP void Load(std::size_t slot, int step) {
    KVANT_UNROLL
    for (int i = 0; i < Codes::kValueTiles; ++i) {
      KVANT_UNROLL
      for (int c = 0; c < kDim / 32; ++c) LoadPiece(slot, step, i, c);
    }
    LoadScales(slot, step);
  }

  KVANT_WARP void Begin() {
    KVANT_UNROLL
    for (int q = 0; q < kEach; ++q) {
      top[q] = kNoLogit;
      weight[q] = 0.0f;
    }
    KVANT_UNROLL
    for (auto& pair : sums) {
      KVANT_UNROLL
      for (auto& sum : pair) sum = 0.0f;
    }
  }

  /// Logits become weights, and weighted sums of values' codes join the others.
  KVANT_WARP void Absorb(bool more, std::size_t slot, int step, typename Keys::Logits& x) {
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
      for (int s = 0; s < Keys::Codes::kFields; ++s) {
        KVANT_UNROLL
        for (int k = 0; k < Keys::kTokensOfLane; ++k) {
          const Lanes<float> e = Exp2(Fma(x[q][s][k], Lanes<float>(kLog2OfE), shift));
          weight[q] += e;
          x[q][s][k] = e * ScaleOf(scales[s], k);
          largest = Largest(largest, x[q][s][k]);
        }
      }
      KVANT_UNROLL
      for (int mask = 4; mask < kWarpLanes; mask *= 2) largest = Largest(largest, ShuffleXor(largest, mask));
      const Lanes<float> factor = Quotient(Lanes<float>(255.0f), Largest(largest, 1e-30f));
      unit[q] = largest * (1.0f / 255.0f);
      PutWeights(x[q], factor, (lane & 3) * kEach + q);
    }
    if (more) LoadScales(slot, step);
    SyncWarp();
    Lanes<std::uint32_t> right[Codes::kValueTiles][Codes::kFields];
    TakeWeights(right);
    SyncWarp();
    KVANT_UNROLL
    for (int c = 0; c < kDim / 32; ++c) {
      KVANT_UNROLL
      for (int half = 0; half < 2; ++half) {
        Sums total;
        BeginSums(total);
        KVANT_UNROLL
        for (int i = 0; i < Codes::kValueTiles; ++i) {
          const Quad& loaded = codes[i * (kDim / 32) + c];
          Lanes<std::uint32_t> a[Codes::kFields], b[Codes::kFields];
          Expand<kBits>(loaded.word[2 * half], a);
          Expand<kBits>(loaded.word[2 * half + 1], b);
          KVANT_UNROLL
          for (int pair = 0; pair < Codes::kFields / 2; ++pair) {
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
      for (int i = 0; i < Codes::kValueTiles; ++i) {
        if (more) LoadPiece(slot, step, i, c);
      }
    }
  }

  /// Weights of one row to bytes, in the order of tokens.
  KVANT_WARP void PutWeights(const Lanes<float> (&x)[Keys::Codes::kFields][Keys::kTokensOfLane], Lanes<float> factor,
                             Lanes<int> row) {
    constexpr int kRowBytes = sizeof(memory.rows[0]);
    auto* bytes = &memory.rows[0][0];
    KVANT_UNROLL
    for (int s = 0; s < Keys::Codes::kFields; ++s) {
      Lanes<std::uint32_t> pair[Keys::kHalves];
      KVANT_UNROLL
      for (int half = 0; half < Keys::kHalves; ++half) {
        const Lanes<std::uint32_t> low = AsBits(Fma(x[s][2 * half], factor, Lanes<float>(kSumBase)));
        const Lanes<std::uint32_t> high = AsBits(Fma(x[s][2 * half + 1], factor, Lanes<float>(kSumBase)));
        pair[half] = Permute(low, high, 0x0040u);
      }
      const Lanes<int> at = row * kRowBytes + first_token + 16 * s;
      if constexpr (Keys::kHalves == 2) {
        Put(reinterpret_cast<std::uint32_t*>(bytes), at >> 2, Permute(pair[0], pair[1], 0x5410u));
      } else {
        Put(reinterpret_cast<std::uint16_t*>(bytes), at >> 1, Convert<std::uint16_t>(pair[0]));
      }
    }
  }

  /// Weights as the right factor, in the order in which Expand leaves the fields of values.
  KVANT_WARP void TakeWeights(Lanes<std::uint32_t> (&right)[Codes::kValueTiles][Codes::kFields]) const {
    constexpr int kRowBytes = sizeof(memory.rows[0]);
    const Lanes<int> g = lane >> 2, t = lane & 3;
    const Lanes<int> row = (kRows == 4 ? g >> 1 : g) * kRowBytes;
    KVANT_UNROLL
    for (int i = 0; i < Codes::kValueTiles; ++i) {
      const Lanes<int> at = row + (t + 4 * i) * (4 * Codes::kFields);
      if constexpr (kBits == 2) {
        const Quad w = GetQuad(&memory.rows[0][0], at);
        right[i][0] = Permute(w.word[0], w.word[2], 0x5140u);
        right[i][1] = Permute(w.word[0], w.word[2], 0x7362u);
        right[i][2] = Permute(w.word[1], w.word[3], 0x5140u);
        right[i][3] = Permute(w.word[1], w.word[3], 0x7362u);
      } else {
        const Pair w = GetPair(&memory.rows[0][0], at);
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
