// Rows -> rotated polar codes and radii: the encoder of a block, 16 rows at a time, lanes = rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include <kvant/tensor.h>

#include "kernels/polar/layout.h"
#include "kernels/rotation/hadamard.h"

namespace kvant::kernels {

/// What is stored as the radius of a group of numbers x whose angles read back as the unit vector u. Do not renumber: a codec
/// parameter.
enum class PolarRadius : std::uint8_t {
  kUnbiased = 0,  ///< |x|^2 / <x, u>: <q, x> is estimated without bias over rotations
  kNorm = 1,      ///< |x|, as published
};

/// A block's encoding; everything is borrowed.
struct PolarEncoding {
  PolarForm form;
  HadamardMap map;  ///< of form.dim
  PolarRadius radius = PolarRadius::kUnbiased;
};

/// Encodes all rows (rows.count a multiple of kPolarTile) into `block` (PolarForm::block_bytes), with additions,
/// multiplications, divisions and roots in one order, so the bytes are the same on every target. Returns rows.count, or the
/// index of the first row with a NaN, an infinity or a radius beyond ufloat16; the block is then unfinished. `scratch`:
/// RotationScratchBytes(dim), 64-byte aligned.
[[nodiscard]] std::size_t PolarEncode(const PolarEncoding& how, const RowsView& rows, std::uint8_t* block,
                                      std::byte* scratch) noexcept;

/// Squared norms below this count as 0: their radius would round to 0.
inline constexpr float kPolarTinySquare = 0x1p-82F;

}  // namespace kvant::kernels
