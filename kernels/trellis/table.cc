#include "kernels/trellis/table.h"

#include <cstddef>
#include <span>

namespace kvant::kernels {
namespace {

/// The number of the level whose bits stand in a byte as expander-inl.h puts them.
std::uint32_t NumberOf(std::uint32_t bits, std::size_t table, std::uint32_t byte) {
  const auto bit = [byte](std::uint32_t i) { return byte >> i & 1u; };
  std::uint32_t z0, z1, w;
  switch (bits) {
    case 1:  // z1 z0, in the low two bits or the next two
      z1 = bit(2 * static_cast<std::uint32_t>(table)), z0 = bit(2 * static_cast<std::uint32_t>(table) + 1), w = 0;
      break;
    case 2:
    case 3:  // z1 w0 z0 w1, or w1 z0 z1 w0
      z1 = table == 0 ? bit(0) : bit(2), z0 = table == 0 ? bit(2) : bit(1);
      w = table == 0 ? bit(1) | bit(3) << 1 : bit(3) | bit(0) << 1;
      w &= (1u << (bits - 1)) - 1u;
      break;
    default:  // z1 w0 w1 w2 z0
      z1 = bit(0), w = byte >> 1 & 7u, z0 = table == 0 ? bit(4) : 1;
  }
  return w << 2 | z1 << 1 | z0;
}

TrellisTable MakeTable(std::uint32_t bits, float unit, std::span<const std::int16_t> magnitudes) {
  TrellisTable table;
  table.plain = MakeLloydTable(bits, unit, magnitudes.first(std::size_t{1} << (bits - 1)));
  for (std::size_t i = 0; i < magnitudes.size(); ++i) table.magnitudes[i] = magnitudes[i];
  for (std::size_t t = 0; t < 2; ++t) {
    for (std::uint32_t byte = 0; byte < 64; ++byte) {
      table.look_up[t][byte] = static_cast<std::int8_t>(table.Level(NumberOf(bits, t, byte)));
    }
  }
  return table;
}

constexpr std::int16_t kLevels1[] = {10, 35};
constexpr std::int16_t kLevels2[] = {6, 18, 32, 56};
constexpr std::int16_t kLevels3[] = {2, 6, 10, 14, 19, 25, 33, 46};
constexpr std::int16_t kLevels4[] = {1, 4, 6, 9, 12, 14, 17, 20, 23, 26, 29, 33, 37, 42, 50, kTrellisLargest};

}  // namespace

const TrellisTable* FindTrellisTable(std::uint32_t bits) noexcept {
  static const TrellisTable tables[] = {MakeTable(1, 29.1886F, kLevels1), MakeTable(2, 30.3080F, kLevels2),
                                        MakeTable(3, 18.6916F, kLevels3), MakeTable(4, 18.9209F, kLevels4)};
  return bits >= 1 && bits <= kMaxTrellisBits ? &tables[bits - 1] : nullptr;
}

TrellisError TrellisErrorOf(std::uint32_t bits, std::size_t dim) noexcept {
  // Of long rows, and what short ones have less of it, times dim: fits to 3e6 numbers at each of nine sizes from 48 to 1024.
  struct Fit {
    double least_squares, of_short, unbiased, of_short_unbiased;
  };
  static constexpr Fit kFits[] = {{.30255, .142, .43375, .163},
                                  {.08525, .154, .0932, .173},
                                  {.02332, .0612, .02388, .0634},
                                  {.006667, .0096, .006711, .0097}};
  const Fit& fit = kFits[bits - 1];
  const auto n = static_cast<double>(dim);
  return {fit.least_squares - fit.of_short / n, fit.unbiased - fit.of_short_unbiased / n};
}

}  // namespace kvant::kernels
