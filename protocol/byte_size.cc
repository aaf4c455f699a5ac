#include "protocol/byte_size.h"

#include <array>
#include <charconv>
#include <cmath>
#include <string>

namespace kvant::protocol {
namespace {

struct Unit {
  std::string_view name;
  double bytes;
};
constexpr std::array<Unit, 6> kUnits{{{"", 1.0},
                                      {"B", 1.0},
                                      {"KiB", 1024.0},
                                      {"MiB", 1024.0 * 1024},
                                      {"GiB", 1024.0 * 1024 * 1024},
                                      {"TiB", 1024.0 * 1024 * 1024 * 1024}}};

/// Whole numbers up to here are exact in a double.
constexpr double kMaxBytes = 9007199254740992.0;

}  // namespace

Result<std::uint64_t> ParseByteSize(std::string_view text) {
  const auto refused = [text](const std::string& why) {
    return Error{ErrorCode::kInvalidArgument, "size \"" + std::string(text) + "\": " + why};
  };
  double number = 0;
  const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc{} || !std::isfinite(number))
    return refused("a number with KiB, MiB, GiB or TiB was expected, such as 512MiB");
  if (number < 0) return refused("a size cannot be negative");
  const std::string_view unit_name(rest, static_cast<std::size_t>(text.data() + text.size() - rest));
  for (const Unit& unit : kUnits) {
    if (unit.name != unit_name) continue;
    const double bytes = number * unit.bytes;
    if (bytes > kMaxBytes) return refused("too large");
    return static_cast<std::uint64_t>(bytes);
  }
  return refused("unit \"" + std::string(unit_name) + "\" is unknown; use KiB, MiB, GiB or TiB (powers of 1024)");
}

}  // namespace kvant::protocol
