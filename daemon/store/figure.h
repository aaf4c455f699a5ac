// How a number that operators see is declared: once, as a row of the table beside its struct. Sums, messages, tables, JSON and
// metrics are loops over these rows, so a new number is a field and a row in one header and nothing anywhere else.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace kvant::daemon {

enum class FigureKind : std::uint8_t {
  kGauge,    ///< as it is now; may fall
  kCounter,  ///< since the daemon (or the store) began; only grows
};

enum class FigureUnit : std::uint8_t { kCount, kTokens, kBytes, kSeconds, kPartsPerMillion };

struct FigureInfo {
  std::string_view name;  ///< snake_case, unique among everything `kvantctl stats` shows
  FigureKind kind = FigureKind::kGauge;
  FigureUnit unit = FigureUnit::kCount;
  std::string_view help;  ///< one line for operators
};

/// A number of `Group`, a struct of std::uint64_t only.
template <typename Group>
struct Figure {
  std::uint64_t Group::*value;
  FigureInfo info;
};

/// Every number of a group. Requires (and checks): as many rows as the group has numbers.
template <typename Group, std::size_t n>
constexpr std::array<Figure<Group>, n> DescribeFigures(const Figure<Group> (&rows)[n]) {
  static_assert(sizeof(Group) == n * sizeof(std::uint64_t), "a number of this struct has no row, or a row too many");
  std::array<Figure<Group>, n> table{};
  for (std::size_t i = 0; i < n; ++i) table[i] = rows[i];
  return table;
}

/// Counters of one meaning, told apart by a label: the name of a row is the label's value. `kvantctl stats` shows NAME_VALUE,
/// metrics kvant_NAME_total{LABEL="VALUE"}.
struct FigureFamily {
  std::string_view name;
  std::string_view label;
  std::string_view help;  ///< of all of them
};

/// sum += part, number by number.
template <typename Group, std::size_t n>
void AddFigures(Group& sum, const Group& part, const std::array<Figure<Group>, n>& figures) {
  for (const Figure<Group>& figure : figures) sum.*figure.value += part.*figure.value;
}

}  // namespace kvant::daemon
