// Lloyd codes as bit planes of which the last may be dropped: plane p holds bit `bits - 1 - p` of every index (layout.h), so
// the first k planes are the top k bits: a code of k bits for the same row, whose levels are the means of its wider cells.
//
// A plane of a block is dim * tokens / 8 bytes, laid out as layout.h lays out a plane of 1 bit: the bit of token group s (16
// tokens of keys, 4 of values) of a tile of eight groups lies in the byte that layout.h says, but as bit PlaneBit(s). In that
// order joining eight planes takes three steps of one shift and one selection each, shared by the groups that kernels read
// together. These bytes are stored and shared: a change needs a new codec version.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/bytes/attend.h"
#include "kernels/lloyd/layout.h"
#include "kernels/lloyd/table.h"

namespace kvant::kernels {

/// The bit of a byte that group 0..7 has: its three bits in reverse.
constexpr std::uint32_t PlaneBit(std::uint32_t group) noexcept { return (group & 1) << 2 | (group & 2) | group >> 2; }

/// The planes of a block that are there: the first `count`, in 1..8.
struct LloydPlanes {
  const std::uint8_t* plane[8] = {};
  std::uint32_t count = 0;
};

/// The index of one code, of `planes.count` bits. Slow: for decoding rows and for references.
constexpr std::uint32_t LloydTopBitsAt(LloydLayout layout, std::size_t dim, const LloydPlanes& planes, std::size_t token,
                                       std::size_t d) noexcept {
  const LloydField at = LloydFieldOf(layout, 1, dim, token, d);
  std::uint32_t index = 0;
  for (std::uint32_t p = 0; p < planes.count; ++p) {
    index = index << 1 | (static_cast<std::uint32_t>(planes.plane[p][at.byte]) >> PlaneBit(at.shift) & 1u);
  }
  return index;
}

/// Writes the first `count` planes of a block of codes in the layout of layout.h, each dim * tokens / 8 bytes, 8-byte aligned.
/// Requires: tokens a multiple of LloydBlockMultiple(1).
void LloydSplitPlanes(LloydLayout layout, std::uint32_t bits, std::size_t dim, std::size_t tokens, const std::uint8_t* codes,
                      std::uint8_t* const* planes, std::uint32_t count) noexcept;

/// As LloydScore of a table of 8 bits, of planes that lie apart. `levels`: of LloydPlaneTables, for so many planes; args.scales
/// are given, args.block is not read, args.prepared is for 8 bits.
void LloydPlanesScore(const LloydTable& levels, const LloydPlanes& planes, const ByteScoreArgs& args) noexcept;

/// As LloydAccumulate, likewise.
void LloydPlanesAccumulate(const LloydTable& levels, const LloydPlanes& planes, const ByteAccumulateArgs& args) noexcept;

}  // namespace kvant::kernels
