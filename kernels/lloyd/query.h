// Queries -> what lloyd/score.h reads: rotated, rounded to integers, 16 queries to a batch.
// |q| <= 127, with 8 bits 2047 (less for dims beyond 256, so that sums fit 32 bits). Batches are those of bytes/queries.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/bytes/attend.h"
#include "kernels/bytes/queries.h"
#include "kernels/lloyd/table.h"
#include "kernels/rotation/hadamard.h"

namespace kvant::kernels {

constexpr std::size_t LloydQueryWordsPerGroup(std::uint32_t bits) noexcept { return bits == 8 ? 2 : 1; }

/// Words of one query's row.
constexpr std::size_t LloydQueryWords(std::uint32_t bits, std::size_t dim) noexcept {
  return dim / 4 * LloydQueryWordsPerGroup(bits);
}

constexpr std::size_t LloydQueryBatchBytes(std::uint32_t bits, std::size_t dim) noexcept {
  return QueryBatchBytes(LloydQueryWords(bits, dim));
}

/// The largest integer a query's number becomes.
constexpr std::int32_t LloydQueryMax(std::uint32_t bits, std::size_t dim) noexcept {
  if (bits != 8) return kByteQueryMax;
  const auto fits = static_cast<std::int32_t>(INT32_MAX / (2047 * static_cast<std::int64_t>(dim)));
  return fits < 2047 ? fits : 2047;
}

struct LloydQueryConfig {
  const LloydTable* table = nullptr;
  HadamardMap map;
  const float* mean = nullptr;  ///< [dim] or null
};

/// queries: [n, dim], adjacent. prepared: ceil(n / 16) batches, 64-byte aligned. Finite queries give the same bytes on every
/// target; others give some bytes. scratch: RotationScratchBytes(dim), 64-byte aligned.
void LloydPrepareQueries(const LloydQueryConfig& config, const float* queries, std::size_t n, std::byte* prepared,
                         std::byte* scratch) noexcept;

}  // namespace kvant::kernels
