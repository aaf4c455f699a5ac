// A terminal's whole screen, by ncurses.
#pragma once

#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

namespace kvant::tools {

/// Takes the screen over until it is destroyed, when the terminal is as it was. One at a time. SIGINT, SIGTERM and SIGHUP are
/// read as kEnd while it lives.
class Screen {
 public:
  enum class Key { kNone, kEnd, kSort, kResized };

  /// Requires: standard output is a terminal that TERM names. Throws std::runtime_error if ncurses does not know it.
  Screen();
  ~Screen();
  Screen(const Screen&) = delete;
  Screen& operator=(const Screen&) = delete;

  [[nodiscard]] std::size_t columns() const;
  /// From the top; what does not fit is cut off. lines[bold] stands out.
  void Draw(const std::vector<std::string>& lines, std::size_t bold);
  /// Waits for a key that means something.
  Key Wait(std::chrono::milliseconds time);
};

}  // namespace kvant::tools
