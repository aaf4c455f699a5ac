// What the host works out for a call of attention: which kernel, how the work is cut, where partial results lie.
#pragma once

#include <cstddef>

#include "kernels/cuda/attend.h"
#include "kernels/cuda/query_map.h"

namespace kvant::kernels::cuda {

inline constexpr int kWarps = 4;  ///< of a thread block

/// Tokens that a warp takes at a time: what one product's rows of keys and one of values' columns fill, twice where registers
/// allow.
constexpr int StepTokens(int key_bits, int value_bits, int dim) noexcept {
  const int least = 16 * 8 / (key_bits < value_bits ? key_bits : value_bits);
  return key_bits == value_bits && dim <= 128 ? 2 * least : least;
}

/// Query rows that a warp takes at a time, as registers allow.
constexpr int TileRows(int rows, int dim) noexcept { return rows <= 4 || dim > 128 ? 4 : 8; }

/// Of a partial result: sums of a tile's rows, then their largest logits, then their weights.
constexpr int PartialFloats(int tile_rows, int dim) noexcept { return tile_rows * dim + 2 * tile_rows; }

struct AttendPlan {
  AttendArgs args;
  QueryMap map;
  float out_factor = 0;  ///< sums of centroids times scales, rotated and with the transform's gain, to rows
  int tile_rows = 0;
  int tiles = 0;   ///< of query rows
  int splits = 0;  ///< thread blocks that share a tile's tokens
  float* partials = nullptr;
  unsigned* counters = nullptr;  ///< one per sequence, KV head and tile
  int most_counters = 0;         ///< of calls of any shape: those that share tiles have no more tiles than multiprocessors

  [[nodiscard]] constexpr int heads() const noexcept { return args.sequences * args.kv_heads * tiles; }
  [[nodiscard]] constexpr std::size_t counter_bytes() const noexcept {
    return (static_cast<std::size_t>(most_counters) * sizeof(unsigned) + 15) / 16 * 16;
  }
  [[nodiscard]] constexpr std::size_t workspace_bytes() const noexcept {
    const auto partial = static_cast<std::size_t>(PartialFloats(tile_rows, args.dim));
    return splits == 1 ? 0
                       : counter_bytes() +
                             static_cast<std::size_t>(heads()) * static_cast<std::size_t>(splits) * partial * sizeof(float);
  }
};

/// The plan of a call, its workspace not yet placed. Errors: AttendWorkspaceBytes.
[[nodiscard]] Result<AttendPlan> PlanAttend(const AttendArgs& args, int multiprocessors);

/// The same with pointers checked and the workspace placed: what a kernel is launched with.
[[nodiscard]] Result<AttendPlan> PlaceAttend(const AttendArgs& args, int multiprocessors);

}  // namespace kvant::kernels::cuda
