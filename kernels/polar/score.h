// Logits straight from polar codes: tables of the query, folded up with the cosines and sines of the angles.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/polar/layout.h"
#include "kernels/rotation/hadamard.h"

namespace kvant::kernels {

/// Numbers of a query's table for one pair: its product with each angle of level 1, repeated to fill vectors.
constexpr std::size_t PolarTableEntries(const PolarForm& form) noexcept { return form.first <= 4 ? 16 : 32; }

constexpr std::size_t PolarPreparedBytes(const PolarForm& form, std::size_t queries) noexcept {
  return queries * form.pairs() * PolarTableEntries(form) * sizeof(float);
}

/// Scratch of PolarPrepareQueries: 16 rotated queries as columns and as rows.
constexpr std::size_t PolarPrepareScratchBytes(const PolarForm& form) noexcept { return 2 * RotationScratchBytes(form.dim); }

/// Query i at queries + i * stride -> `prepared`, 64-byte aligned, as `scratch` is. The same bits on every target.
void PolarPrepareQueries(const PolarForm& form, const HadamardMap& map, const float* queries, std::size_t stride, std::size_t n,
                         std::byte* prepared, std::byte* scratch) noexcept;

/// Logits of a block of keys. Everything is borrowed.
struct PolarScoreArgs {
  PolarForm form;
  std::size_t tokens = 0;               ///< of the block: a multiple of kPolarTile
  const std::uint8_t* block = nullptr;  ///< as PolarEncode made it; any bytes give some finite or infinite numbers
  const std::byte* prepared = nullptr;  ///< by PolarPrepareQueries
  std::size_t queries = 0;
  float* logits = nullptr;  ///< query i, token t: logits[i * stride + t]
  std::size_t stride = 0;
  bool add = false;                 ///< add to what `logits` holds instead of overwriting it
  const std::byte* next = nullptr;  ///< memory to prefetch, or null
  std::size_t next_bytes = 0;
};

/// Sums of floats in one order, without fused multiply-adds: the same bits on every target and for any company of queries.
void PolarScore(const PolarScoreArgs& args) noexcept;

}  // namespace kvant::kernels
