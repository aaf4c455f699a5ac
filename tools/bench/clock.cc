#include "tools/bench/clock.h"

#include <chrono>
#include <cstdint>

namespace kvant::tools {

double ClockGhz() {
  constexpr std::uint64_t kAdditions = 20'000'000;
  std::uint64_t sum = 0;
  const auto start = std::chrono::steady_clock::now();
  for (std::uint64_t i = 0; i < kAdditions; i += 8) {
    // The empty statements make each sum a value that the compiler has to have before the next addition.
#pragma GCC unroll 8
    for (int step = 0; step < 8; ++step) {
      sum += i;
      asm volatile("" : "+r"(sum));
    }
  }
  const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
  return static_cast<double>(kAdditions) / time.count();
}

}  // namespace kvant::tools
