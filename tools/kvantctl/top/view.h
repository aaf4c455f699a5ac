// What `kvantctl top` shows, as lines: two looks at a daemon in, text out. Knows no terminal.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <kvant/admin.h>

namespace kvant::tools {

/// One look at a daemon.
struct Sample {
  std::chrono::steady_clock::time_point at;
  StatsReport stats;
  std::vector<StoreRow> stores;
};

enum class StoreOrder : std::uint8_t { kResident, kSealing, kName };

/// The next one, in a circle.
StoreOrder After(StoreOrder order) noexcept;

/// Lines of at most `columns` columns; rates are those between `before` and `now`, dashes if `before` is null or of another
/// daemon. The first line of the table of stores is lines[kStoresLine].
std::vector<std::string> TopLines(const Sample& now, const Sample* before, StoreOrder order, std::size_t columns);
inline constexpr std::size_t kStoresLine = 6;

}  // namespace kvant::tools
