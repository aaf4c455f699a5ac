#include "protocol/duration.h"

#include <array>
#include <charconv>
#include <cmath>
#include <string>

namespace kvant::protocol {
namespace {

struct Unit {
  std::string_view name;
  double milliseconds;
};
constexpr std::array<Unit, 5> kUnits{{{"ms", 1.0}, {"s", 1e3}, {"m", 60e3}, {"h", 3600e3}, {"d", 86400e3}}};

/// A hundred years: sums of two of them stay far from the end of any clock.
constexpr double kMostMilliseconds = 36525.0 * 86400e3;

}  // namespace

Result<std::chrono::milliseconds> ParseDuration(std::string_view text) {
  const auto refused = [text](const std::string& why) {
    return Error{ErrorCode::kInvalidArgument, "duration \"" + std::string(text) + "\": " + why};
  };
  double number = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc{} || !std::isfinite(number))
    return refused("a number with ms, s, m, h or d was expected, such as 15m");
  if (number < 0) return refused("a duration cannot be negative");
  const std::string_view unit_name(rest, static_cast<std::size_t>(text.data() + text.size() - rest));
  if (unit_name.empty() && number == 0) return std::chrono::milliseconds(0);
  for (const Unit& unit : kUnits) {
    if (unit.name != unit_name) continue;
    const double milliseconds = number * unit.milliseconds;
    if (milliseconds > kMostMilliseconds) return refused("too long");
    return std::chrono::milliseconds(static_cast<std::chrono::milliseconds::rep>(milliseconds));
  }
  return refused("unit \"" + std::string(unit_name) + "\" is unknown; use ms, s, m, h or d");
}

}  // namespace kvant::protocol
