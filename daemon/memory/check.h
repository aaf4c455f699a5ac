// KVANT_CHECK: invariants whose breach would corrupt shared memory or the budget. A daemon that finds one broken ends at once:
// everything it holds can be computed again, a wrong block cannot be told from a right one.
#pragma once

#include <cstdlib>
#include <iostream>

namespace kvant::daemon {

/// Prints the condition, where it stands and the values of what it is about, and aborts.
template <typename... Values>
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition, const char* names, const Values&... values) {
  std::cerr << file << ":" << line << ": KVANT_CHECK failed: " << condition;
  if constexpr (sizeof...(Values) > 0) {
    std::cerr << "; (" << names << ") =";
    ((std::cerr << ' ' << values), ...);
  }
  std::cerr << std::endl;
  std::abort();
}

}  // namespace kvant::daemon

/// KVANT_CHECK(condition, values...): for faults of the daemon's own, never for what a client may send.
#define KVANT_CHECK(condition, ...)                                                                             \
  do {                                                                                                          \
    if (!(condition)) [[unlikely]]                                                                              \
      ::kvant::daemon::CheckFailed(__FILE__, __LINE__, #condition, "" #__VA_ARGS__ __VA_OPT__(, ) __VA_ARGS__); \
  } while (false)
