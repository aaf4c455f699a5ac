#include "protocol/event_loop.h"

#include <cstddef>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvant::wire {
namespace {

/// Looks at the sockets alone per look at everything else (timers, new connections, work posted by other threads).
constexpr unsigned kLooksPerPoll = 16;

void Pause() noexcept {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void EventLoop::Flush() {
  for (Source* source : sources_) source->Flush();
}

bool EventLoop::Spin() {
  if (spin_.count() <= 0 || sources_.empty()) return false;
  const auto end = std::chrono::steady_clock::now() + spin_;
  for (unsigned looks = 1; std::chrono::steady_clock::now() < end; ++looks) {
    bool came = false;
    for (Source* source : sources_) came |= source->Receive();
    if (came) return true;
    if (looks % kLooksPerPoll == 0) {
      port_.UnixEventPort::poll();
      if (events_.isRunnable()) return true;
    }
    Pause();
  }
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
