#include "protocol/event_loop.h"

#include <algorithm>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvant::wire {
namespace {

/// Looks at the sockets alone per look at everything else (timers, new connections, work posted by other threads).
constexpr unsigned kLooksPerPoll = 16;

/// Spins in vain before the loop begins to skip some; then 16, 32, ... up to 1024 between two attempts.
constexpr unsigned kPatience = 4;
constexpr unsigned kMostSkippedLog2 = 10;

void Pause() noexcept {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

bool EventLoop::WaitUntil(TimePoint deadline) {
  const TimePoint now = std::chrono::steady_clock::now();
  if (now >= deadline) return false;
  // One alarm serves many calls: those that end before it rings leave it to their successors, whose time comes later.
  if (alarm_time_ <= now || alarm_time_ > deadline) {
    alarm_time_ = deadline;
    const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(deadline - now).count();
    // kj's timers count from when the loop last looked at the clock, and that may be long ago.
    alarm_ = timer().atTime(kj::systemPreciseMonotonicClock().now() + left * kj::NANOSECONDS).eagerlyEvaluate(nullptr);
  }
  port_.wait();
  return true;
}

void EventLoop::Flush() {
  for (Source* source : sources_) source->Flush();
}

bool EventLoop::Spin() {
  if (spin_.count() <= 0 || sources_.empty()) return false;
  if (skip_ > 0) {
    --skip_;
    return false;
  }
  const auto end = std::chrono::steady_clock::now() + spin_;
  for (unsigned looks = 1; std::chrono::steady_clock::now() < end; ++looks) {
    bool came = false;
    for (Source* source : sources_) came |= source->Receive();
    if (looks % kLooksPerPoll == 0) {
      port_.UnixEventPort::poll();
      came |= events_.isRunnable();
    }
    if (came) {
      in_vain_ = 0;
      return true;
    }
    Pause();
  }
  if (++in_vain_ >= kPatience) skip_ = 1u << std::min(in_vain_, kMostSkippedLog2);
  return false;
}

bool EventLoop::Port::wait() {
  loop_.Flush();
  // A send that failed is something to do.
  if (loop_.events_.isRunnable() || loop_.Spin()) return false;
  return UnixEventPort::wait();
}

bool EventLoop::Port::poll() {
  loop_.Flush();
  return UnixEventPort::poll();
}

}  // namespace kvant::wire
