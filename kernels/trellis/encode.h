// Rows -> rotated trellis codes and scales: per row a Viterbi search of the path with the least squared error, 16 rows at a
// time, lanes = rows.
#pragma once

#include <cstddef>
#include <cstdint>

#include <kvant/tensor.h>

#include "kernels/lloyd/encode.h"
#include "kernels/trellis/table.h"

namespace kvant::kernels {

/// Steps to either side of the place where the ring is cut that are searched first, to know the state there: paths that part
/// have met again within some five times the code's memory.
inline constexpr std::size_t kTrellisCut = 16;
static_assert(2 * kTrellisCut <= kLeastTrellisDim);

/// As LloydEncode, of a block laid out like codes of `table.bits()` bits. Requires: how.table is &table.plain, the head size as
/// code.h says. `scratch`: TrellisEncodeScratchBytes, 64-byte aligned.
[[nodiscard]] std::size_t TrellisEncode(const TrellisTable& table, const LloydEncoding& how, const RowsView& rows,
                                        std::uint8_t* block, std::byte* scratch) noexcept;

/// Of 16 rows: columns of floats, codes, level numbers, and what each step of the search decided.
constexpr std::size_t TrellisEncodeScratchBytes(std::size_t dim) noexcept { return dim * 16 * (4 + 1 + 1 + 4); }

}  // namespace kvant::kernels
