// What happened between two answers of a daemon.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include <kvant/admin.h>

namespace kvant::tools {

/// Of one group of figures. Both answers outlive it.
class Rates {
 public:
  /// `before`: null if there was no answer of the same daemon; `seconds` between the two.
  Rates(const Figures& now, const Figures* before, double seconds) noexcept : now_(&now), before_(before), seconds_(seconds) {}

  /// How much a counter rose; empty if that is not known.
  [[nodiscard]] std::optional<std::uint64_t> Rise(std::string_view name) const;
  /// The same, `each` times and by the second, for people; a dash if it is not known.
  [[nodiscard]] std::string PerSecond(std::string_view name, std::uint64_t each = 1) const;
  /// Of the tokens looked up meanwhile, how many were found.
  [[nodiscard]] std::string Hits() const;

 private:
  const Figures* now_;
  const Figures* before_;
  double seconds_;
};

}  // namespace kvant::tools
