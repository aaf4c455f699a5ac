// How long something took, counted in buckets: what a mean hides.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace kvant::daemon {

/// Plain values. Bounds are the same for all, so that two of them may be compared.
struct TimeHistogram {
  /// Seconds; a bucket holds what took its bound at most, and longer than the bound before. One more bucket holds the rest.
  static constexpr std::array<std::uint64_t, 12> kBounds{1,     5,      15,     60,     300,     900,
                                                         3'600, 14'400, 43'200, 86'400, 604'800, 2'592'000};

  std::array<std::uint64_t, kBounds.size() + 1> counts{};
  std::uint64_t sum_ms = 0;

  void Add(std::uint64_t ms) noexcept {
    const auto bound = std::ranges::find_if(kBounds, [ms](std::uint64_t seconds) { return ms <= seconds * 1000; });
    ++counts[static_cast<std::size_t>(bound - kBounds.begin())];
    sum_ms += ms;
  }
};

/// A histogram of `Group`, a struct of nothing else.
template <typename Group>
struct HistogramRow {
  TimeHistogram Group::*value;
  std::string_view name;  ///< snake_case; ends with its unit
  std::string_view help;  ///< one line for operators
};

/// Every histogram of a group. Requires (and checks): as many rows as the group has histograms.
template <typename Group, std::size_t n>
constexpr std::array<HistogramRow<Group>, n> DescribeHistograms(const HistogramRow<Group> (&rows)[n]) {
  static_assert(sizeof(Group) == n * sizeof(TimeHistogram), "a histogram of this struct has no row, or a row too many");
  std::array<HistogramRow<Group>, n> table{};
  for (std::size_t i = 0; i < n; ++i) table[i] = rows[i];
  return table;
}

}  // namespace kvant::daemon
