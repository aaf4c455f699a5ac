// Asks for memory that will be wanted soon, a few lines at every step of a loop.
#pragma once

#include <cstddef>

namespace kvant::kernels {

class Prefetch {
 public:
  /// [from, from + bytes) within `steps` steps; `from` may be null.
  Prefetch(const std::byte* from, std::size_t bytes, std::size_t steps) noexcept
      : next_(from), end_(from == nullptr ? from : from + bytes), lines_(steps == 0 ? 0 : (bytes / 64 + steps) / steps) {}

  /// Into the second-level cache: what is fetched is read some thousand cycles later.
  void Step() noexcept {
    for (std::size_t i = 0; i < lines_ && next_ < end_; ++i, next_ += 64) __builtin_prefetch(next_, 0, 2);
  }

 private:
  const std::byte* next_;
  const std::byte* end_;
  std::size_t lines_;
};

}  // namespace kvant::kernels
