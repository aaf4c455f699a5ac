// Rows -> rotated codes of sub-vectors and scales: the encoder of a block, 16 rows at a time, lanes = rows. The nearest word is
// searched among all 256 in integers, so which one it is depends on no order of operations.
//
//  1. A row x, divided by its smooth factors if there are any, is rotated in floats (rotation/hadamard.h) and rounded to 16-bit
//     integers z of kVectorSteps steps per codebook unit, a row's root mean square being codebook.unit units.
//  2. Of each sub-vector, the word w with the largest <z, w> - kVectorSteps |w|^2 / 2 is taken, which is the nearest; of equal
//     ones the last.
//  3. The scale comes from the integer sums <z, c> and |c|^2 over the row's words c.
#pragma once

#include <cstddef>
#include <cstdint>

#include <kvant/tensor.h>

#include "kernels/lloyd/encode.h"
#include "kernels/rotation/hadamard.h"
#include "kernels/vector/codebook.h"
#include "kernels/vector/layout.h"

namespace kvant::kernels {

inline constexpr int kVectorSteps = 16;
/// No |z| exceeds it: 25 root mean squares with the Gaussian codebook; 32 bits hold every sum.
inline constexpr int kVectorStepsMax = 8191;

/// A block's encoding; everything is borrowed.
struct VectorEncoding {
  const VectorCodebook* codebook = nullptr;
  HadamardMap map;
  const float* smooth = nullptr;  ///< [dim], positive: rows are divided by them; null for none
  LloydLayout layout = LloydLayout::kKeys;
  LloydScale scale = LloydScale::kUnbiased;  ///< kUnbiased or kLeastSquares, of the row after smoothing
};

/// Encodes all rows (rows.count a multiple of kVectorBlockMultiple, rows.dim of kVectorDimMultiple) into `block`
/// (VectorBlockBytes, 64-byte aligned); the bytes are the same on every target. A row reads back, before smoothing is undone,
/// as scale * Q' c / (unit * sqrt(dim)). Returns rows.count, or the index of the first row with a NaN, an infinity or a scale
/// beyond ufloat16; the block is then unfinished. `scratch`: VectorEncodeScratchBytes, 64-byte aligned.
[[nodiscard]] std::size_t VectorEncode(const VectorEncoding& how, const RowsView& rows, std::uint8_t* block,
                                       std::byte* scratch) noexcept;

/// Of 16 rows as columns of floats, then of pairs of 16-bit integers; and of the words.
constexpr std::size_t VectorEncodeScratchBytes(std::size_t dim) noexcept {
  return dim * kLanes * sizeof(float) + 4 * kVectorWords * sizeof(std::uint32_t);
}

/// What the encoder's integers are multiplied with, rounded once from double.
struct VectorConstants {
  float to_steps = 0;       ///< rotated row / |x| -> steps
  float unbiased = 0;       ///< scale = |x| * unbiased / <z, c>
  float least_squares = 0;  ///< scale = |x| * <z, c> * least_squares / |c|^2
};
[[nodiscard]] VectorConstants VectorConstantsOf(const VectorEncoding& how) noexcept;

}  // namespace kvant::kernels
