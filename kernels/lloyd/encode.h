// Rows -> rotated Lloyd codes and scales: the encoder of a block, 16 rows at a time, lanes = rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include <kvant/tensor.h>

#include "kernels/lloyd/layout.h"
#include "kernels/lloyd/table.h"
#include "kernels/rotation/hadamard.h"

namespace kvant::kernels {

/// Which number s is stored with codes c of a row x; the row reads back as s * c' with c' = c / (unit * sqrt(dim)), rotated
/// back. z is the rotated row in codebook units: z = c' up to quantisation, times |x|. Do not renumber: a codec parameter.
enum class LloydScale : std::uint8_t {
  kRaw = 1,            ///< |x|
  kNormCorrected = 2,  ///< |x| / |c'|: the row keeps its norm
  kLeastSquares = 3,   ///< <x, c'> / |c'|^2: least squared error
  kUnbiased = 4,       ///< |x|^2 / <x, c'>: <q, x> is estimated without bias over rotations
};

/// A block's encoding; everything is borrowed.
struct LloydEncoding {
  const LloydTable* table = nullptr;
  HadamardShape shape;
  std::size_t rounds = 0;
  const std::uint32_t* signs = nullptr;  ///< shape.sign_words(rounds)
  const float* mean = nullptr;           ///< [dim], subtracted from every row; null for none
  LloydLayout layout = LloydLayout::kKeys;
  LloydScale scale = LloydScale::kUnbiased;
};

/// Encodes all rows (rows.count a multiple of LloydBlockMultiple) into `block` (LloydBlockBytes, 64-byte aligned), without one
/// multiply-add, so the bytes are the same on every target. Returns rows.count, or the index of the first row with a NaN, an
/// infinity or a scale beyond ufloat16; the block is then unfinished. `scratch`: LloydEncodeScratchBytes, 64-byte aligned.
[[nodiscard]] std::size_t LloydEncode(const LloydEncoding& how, const RowsView& rows, std::uint8_t* block,
                                      std::byte* scratch) noexcept;

/// Of 16 rows as columns of floats and their codes, or of 32 rows as columns of 16-bit integers, 8 of them as floats, and the
/// first signs.
constexpr std::size_t LloydEncodeScratchBytes(std::size_t dim) noexcept { return (dim * 100 + 63) / 64 * 64; }

/// The part of LloydEncode that rotates in integers (lloyd/integer.h). Requires: RotatesInIntegers.
[[nodiscard]] std::size_t LloydEncodeInIntegers(const LloydEncoding& how, const RowsView& rows, std::uint8_t* block,
                                                std::byte* scratch) noexcept;

/// Squared norms below this count as 0: their scale would round to 0.
inline constexpr float kLloydTinySquare = 0x1p-82f;

/// The constants of LloydScale and of the change to codebook units, rounded once from double.
struct LloydEncodeConstants {
  float to_units = 0;   ///< unit * sqrt(dim) / gain: rotated row / |x| -> codebook units
  float unbiased = 0;   ///< unit^2 * dim
  float corrected = 0;  ///< unit * sqrt(dim)
};
[[nodiscard]] LloydEncodeConstants LloydConstants(const LloydEncoding& how) noexcept;

}  // namespace kvant::kernels
