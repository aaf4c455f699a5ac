// What attention on byte codes is called with: scores of keys and weighted sums of values, for every codec whose codes expand
// to signed bytes or to 16-bit numbers. Results are exact integer sums times floats, so they are the same bits on every target.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace kvant::kernels {

/// Logits of a block of keys. Everything is borrowed.
struct ByteScoreArgs {
  std::size_t dim = 0;
  std::size_t tokens = 0;               ///< of the block
  const std::byte* block = nullptr;     ///< codes, then scales; 64-byte aligned
  const std::byte* prepared = nullptr;  ///< of the queries, by the codec that made the block
  std::size_t queries = 0;
  float* logits = nullptr;  ///< query i, token t: logits[i * stride + t], overwritten
  std::size_t stride = 0;
  std::byte* scratch = nullptr;     ///< ByteScoreScratchBytes, 64-byte aligned
  const std::byte* next = nullptr;  ///< memory to prefetch, or null
  std::size_t next_bytes = 0;
  /// ufloat16, of the tokens; null: they follow the codes. For blocks of several groups of codes under one scale.
  const std::byte* scales = nullptr;
};

/// Weighted sums of a block of values. Everything is borrowed.
struct ByteAccumulateArgs {
  std::size_t dim = 0;
  std::size_t tokens = 0;            ///< of the block
  const std::byte* block = nullptr;  ///< codes, then scales; 64-byte aligned
  const float* weights = nullptr;    ///< query i, token t: weights[i * stride + t], >= 0 and finite
  std::size_t stride = 0;
  std::size_t queries = 0;
  float* acc = nullptr;  ///< query i: acc[i * acc_stride ..], dim floats: += sum over t of weight * scale * number of the code
  std::size_t acc_stride = 0;
  std::byte* scratch = nullptr;     ///< ByteAccumulateScratchBytes, 64-byte aligned
  const std::byte* next = nullptr;  ///< memory to prefetch, or null
  std::size_t next_bytes = 0;
  const std::byte* scales = nullptr;  ///< as in ByteScoreArgs
};

/// Numbers of queries and weights of codes that expand to bytes become integers up to these.
inline constexpr int kByteQueryMax = 127;
inline constexpr int kByteWeightMax = 255;

/// Tokens that share the step of a query's integer weights, unless the code wants another number.
inline constexpr std::size_t kWeightRun = 128;

/// From how many queries on tiles (machine/amx.h) are used: they beat vectors, whose time grows with each query.
inline constexpr std::size_t kLeastTileQueries = 9;
/// Tiles take head sizes up to this.
inline constexpr std::size_t kMaxTileDim = 256;

/// Scratch that scoring `n` queries of `dim` numbers takes: expanded codes (or 16-bit queries as bytes) and sums on their way
/// through tiles, none where no tiles are used.
constexpr std::size_t ByteScoreScratchBytes(std::size_t n, std::size_t dim) noexcept {
  if (n < kLeastTileQueries || dim > kMaxTileDim) return 0;
  // Two steps of 64 tokens, each with what keeps it from lying a multiple of 4 KiB from the other, and two sets of four tiles.
  return 2 * (64 * dim + 1024) + 2 * 4 * 1024;
}

/// Scratch that summing values for `n` queries takes: a run's scales and terms, integer weights, totals and steps of the
/// queries (a multiple of 16: tiles read that many), and for tiles two expanded columns of 16 dims with the sums of up to 64
/// queries, or 16 rows of 16-bit weights as bytes with theirs. `run`: tokens that share a step.
constexpr std::size_t ByteAccumulateScratchBytes(std::size_t n, std::size_t run = kWeightRun) noexcept {
  const std::size_t rows = (n + 15) / 16 * 16;
  const std::size_t weights = 5 * run * sizeof(float) + rows * (run * sizeof(std::uint16_t) + 2 * sizeof(float));
  const std::size_t tiles = n < kLeastTileQueries ? 0 : 2 * 2048 + 2 * 64 * 16 * sizeof(std::int32_t);
  return (weights + 63) / 64 * 64 + tiles;
}

}  // namespace kvant::kernels
