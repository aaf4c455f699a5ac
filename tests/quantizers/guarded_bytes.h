// Memory that shows when somebody writes beyond it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "quantizers/attention/aligned_buffer.h"

namespace kvant::quantizers::test {

/// 64-byte aligned memory, full of garbage at first, with guards of one cache line on both sides.
class GuardedBytes {
 public:
  explicit GuardedBytes(std::size_t bytes) : bytes_(bytes) {
    memory_.Reserve(bytes + 2 * kGuard);
    std::memset(memory_.data(), 0x5a, bytes + 2 * kGuard);
    std::memset(data(), 0xc5, bytes);  // not what guards hold, and no small number of any type
  }
  [[nodiscard]] std::byte* data() noexcept { return memory_.data() + kGuard; }
  [[nodiscard]] bool intact() const {
    const auto whole = [](const std::byte* guard) {
      return std::all_of(guard, guard + kGuard, [](std::byte b) { return b == std::byte{0x5a}; });
    };
    return whole(memory_.data()) && whole(memory_.data() + kGuard + bytes_);
  }

 private:
  static constexpr std::size_t kGuard = 64;
  std::size_t bytes_;
  AlignedBuffer memory_;
};

}  // namespace kvant::quantizers::test
