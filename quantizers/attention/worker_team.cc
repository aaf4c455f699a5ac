#include "quantizers/attention/worker_team.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kvant::quantizers {
namespace {

constexpr std::uint32_t kOpen = 1u << 31;
// Looking at the clock or yielding this seldom keeps a spin cheap.
constexpr unsigned kSpinsPerLook = 64;

void Pause() noexcept {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

WorkerTeam::WorkerTeam(std::size_t helpers, std::chrono::nanoseconds spin) : spin_(spin) {
  helpers_.reserve(helpers);
  for (std::size_t i = 0; i < helpers; ++i) {
    helpers_.emplace_back([this, thread = i + 1] { HelperLoop(thread); });
  }
}

WorkerTeam::~WorkerTeam() {
  stop_.store(true);
  calls_.fetch_add(1);
  calls_.notify_all();
}

void WorkerTeam::ForEach(std::size_t n, void (*task)(void*, std::size_t, std::size_t), void* context) {
  if (helpers_.empty() || n <= 1) {
    for (std::size_t i = 0; i < n; ++i) task(context, i, 0);
    return;
  }
  count_ = n;
  task_ = task;
  context_ = context;
  next_.store(0, std::memory_order_relaxed);
  state_.store(kOpen, std::memory_order_release);
  calls_.fetch_add(1);
  calls_.notify_all();
  Work(0);
  // Nobody enters any more; wait for those inside to finish their last task.
  state_.fetch_and(~kOpen, std::memory_order_acq_rel);
  for (unsigned spins = 1; state_.load(std::memory_order_acquire) != 0; ++spins) {
    Pause();
    // A helper that was descheduled inside its task needs our processor.
    if (spins % kSpinsPerLook == 0) std::this_thread::yield();
  }
}

void WorkerTeam::Work(std::size_t thread) {
  for (;;) {
    const std::size_t i = next_.fetch_add(1, std::memory_order_relaxed);
    if (i >= count_) return;
    task_(context_, i, thread);
  }
}

bool WorkerTeam::Enter() noexcept {
  std::uint32_t state = state_.load(std::memory_order_relaxed);
  while ((state & kOpen) != 0) {
    if (state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire, std::memory_order_relaxed)) return true;
  }
  return false;
}

void WorkerTeam::HelperLoop(std::size_t thread) {
  std::uint32_t seen = 0;
  while (!stop_.load()) {
    const auto deadline = std::chrono::steady_clock::now() + spin_;
    for (unsigned spins = 1; calls_.load() == seen; ++spins) {
      Pause();
      if (spins % kSpinsPerLook == 0 && std::chrono::steady_clock::now() >= deadline) {
        calls_.wait(seen);
        break;
      }
    }
    seen = calls_.load();
    if (Enter()) {
      Work(thread);
      state_.fetch_sub(1, std::memory_order_release);
    }
  }
}

}  // namespace kvant::quantizers
