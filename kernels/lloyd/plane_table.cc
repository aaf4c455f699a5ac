#include "kernels/lloyd/plane_table.h"

#include <array>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numbers>
#include <utility>
#include <vector>

namespace kvant::kernels {
namespace {

/// Of the normal distribution on [a, b]: its mass and its integral of x.
struct CellMoments {
  double mass = 0;
  double first = 0;
  CellMoments(double a, double b)
      : mass(0.5 * (std::erfc(a / std::numbers::sqrt2) - std::erfc(b / std::numbers::sqrt2))),
        first((std::exp(-0.5 * a * a) - std::exp(-0.5 * b * b)) / std::sqrt(2 * std::numbers::pi)) {}
};

/// Where cell i of the positive half begins, in standard deviations.
double Edge(const LloydTable& table, std::size_t i) {
  if (i == 0) return 0;
  return i == table.half() ? std::numeric_limits<double>::infinity() : double{table.thresholds[i - 1]} / double{table.unit};
}

/// E z c and E c^2 over the positive half, twice that over both, c in standard deviations.
struct LevelMoments {
  double product = 0;
  double square = 0;
  void Add(const CellMoments& cell, double level) {
    product += 2 * cell.first * level;
    square += 2 * cell.mass * level * level;
  }
};

double Stretch(LloydScale scale, const LevelMoments& all, const LevelMoments& some) {
  switch (scale) {
    case LloydScale::kRaw: return 1;
    case LloydScale::kNormCorrected: return std::sqrt(all.square / some.square);
    case LloydScale::kLeastSquares: return some.product / some.square * (all.square / all.product);
    case LloydScale::kUnbiased: return all.product / some.product;
  }
  return 1;
}

std::vector<LloydTable> MakeTables(std::uint32_t bits, LloydScale scale) {
  const LloydTable& table = *FindLloydTable(bits);
  const int units = LloydPlaneUnits(bits);
  LevelMoments all;
  for (std::size_t i = 0; i < table.half(); ++i) {
    all.Add({Edge(table, i), Edge(table, i + 1)}, table.magnitudes[i] / double{table.unit});
  }
  std::vector<LloydTable> tables;
  for (std::uint32_t count = 1; count <= bits; ++count) {
    const std::size_t half = std::size_t{1} << (count - 1), cells = table.half() / half;
    std::vector<double> levels(half);
    LevelMoments some;
    for (std::size_t i = 0; i < half; ++i) {
      const CellMoments cell(Edge(table, i * cells), Edge(table, (i + 1) * cells));
      levels[i] = cell.first / cell.mass;
      some.Add(cell, levels[i]);
    }
    const double to_units = Stretch(scale, all, some) * double{table.unit} * units;
    std::array<std::int16_t, 128> magnitudes;
    for (std::size_t i = 0; i < magnitudes.size(); ++i) {
      const std::size_t level = i >> (8 - count);
      magnitudes[i] = static_cast<std::int16_t>(count == bits ? table.magnitudes[level] * units
                                                              : static_cast<int>(std::lround(levels[level] * to_units)));
    }
    tables.push_back(MakeLloydTable(8, table.unit * static_cast<float>(units), magnitudes, LloydJoinedPlanes(count)));
  }
  return tables;
}

constexpr std::size_t kScales = 4;

/// Made when they are first asked for.
template <std::size_t kWhich>
const std::vector<LloydTable>& Tables() {
  static const std::vector<LloydTable> tables =
      MakeTables(static_cast<std::uint32_t>(kWhich / kScales) + 1, static_cast<LloydScale>(kWhich % kScales + 1));
  return tables;
}

template <std::size_t... kWhich>
const std::vector<LloydTable>& Tables(std::size_t which, std::index_sequence<kWhich...>) {
  using Make = const std::vector<LloydTable>& (*)();
  constexpr Make kAll[] = {&Tables<kWhich>...};
  return kAll[which]();
}

}  // namespace

std::span<const LloydTable> LloydPlaneTables(std::uint32_t bits, LloydScale scale) {
  const std::size_t which = (bits - 1) * kScales + static_cast<std::size_t>(scale) - 1;
  return Tables(which, std::make_index_sequence<8 * kScales>());
}

}  // namespace kvant::kernels
