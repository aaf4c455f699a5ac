// Keeps clients from filling the log with what they can cause at will.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <utility>

namespace kvant::daemon {

/// Lets `most` events of each interval through. One thread.
class LogLimit {
 public:
  using Clock = std::chrono::steady_clock;

  LogLimit(std::uint32_t most, Clock::duration interval) noexcept : most_(most), interval_(interval) {}

  /// Whether an event at `now` is to be logged: nothing if not, else how many were left out since the last that was. Times do
  /// not go back.
  std::optional<std::uint64_t> Admit(Clock::time_point now) noexcept {
    if (now - begin_ >= interval_) {
      begin_ = now;
      admitted_ = 0;
    }
    if (admitted_ == most_) {
      ++left_out_;
      return std::nullopt;
    }
    ++admitted_;
    return std::exchange(left_out_, 0);
  }

 private:
  const std::uint32_t most_;
  const Clock::duration interval_;
  Clock::time_point begin_{Clock::duration::min() / 2};  // of the interval
  std::uint32_t admitted_ = 0;
  std::uint64_t left_out_ = 0;
};

}  // namespace kvant::daemon
