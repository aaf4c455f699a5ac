// Queries -> what vector/attend.h reads: those of byte codes (bytes/queries.h), rotated, |q| <= 127, their dims in the order of
// look-ups (vector/layout.h).
#pragma once

#include <cstddef>

#include "kernels/bytes/queries.h"
#include "kernels/rotation/hadamard.h"
#include "kernels/vector/codebook.h"

namespace kvant::kernels {

constexpr std::size_t VectorPreparedBytes(std::size_t n, std::size_t dim) noexcept {
  return (n + kQueryBatch - 1) / kQueryBatch * QueryBatchBytes(dim / 4);
}

/// queries: [n, dim], adjacent, dim a multiple of kVectorDimMultiple. prepared: VectorPreparedBytes, 64-byte aligned. Finite
/// queries give the same bytes on every target; others give some bytes. scratch: RotationScratchBytes(dim), 64-byte aligned.
void VectorPrepareQueries(const VectorCodebook& codebook, const HadamardMap& map, const float* queries, std::size_t n,
                          std::byte* prepared, std::byte* scratch) noexcept;

}  // namespace kvant::kernels
