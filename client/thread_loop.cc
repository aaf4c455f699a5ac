#include "client/thread_loop.h"

#include <atomic>
#include <cstdint>
#include <utility>

#include <kj/exception.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

namespace kvant::client {
namespace {

/// A number no two threads of a process share, unlike std::thread::id, which is used again.
std::uint64_t ThreadNumber() noexcept {
  static std::atomic<std::uint64_t> next{1};
  thread_local const std::uint64_t number = next.fetch_add(1, std::memory_order_relaxed);
  return number;
}

}  // namespace

/// Knows the thread's loop, and destroys at the thread's end what other threads left for it.
struct ThreadLoop::ThreadEnd {
  std::weak_ptr<ThreadLoop> loop;
  ~ThreadEnd() {
    const auto held = loop.lock();
    if (!held) return;
    std::vector<std::shared_ptr<void>> remains;
    const std::lock_guard lock(held->mutex_);  // released before the remains are destroyed
    held->thread_ended_ = true;
    remains.swap(held->grave_);
  }
};

Result<std::shared_ptr<ThreadLoop>> ThreadLoop::ForThisThread() {
  thread_local ThreadEnd here;
  if (auto loop = here.loop.lock()) return loop;
  std::shared_ptr<ThreadLoop> loop;
  const auto failure = kj::runCatchingExceptions([&] { loop = std::shared_ptr<ThreadLoop>(new ThreadLoop(ThreadNumber())); });
  KJ_IF_MAYBE (exception, failure) {
    return Error{ErrorCode::kUnsupported,
                 std::string("start an event loop: this thread has a kj event loop already, or kj cannot make one (") +
                     exception->getDescription().cStr() + "); connect from another thread"};
  }
  here.loop = loop;
  return loop;
}

ThreadLoop::~ThreadLoop() = default;

bool ThreadLoop::InThisThread() const noexcept { return ThreadNumber() == thread_; }

bool ThreadLoop::Bury(std::shared_ptr<void> remains) {
  const std::lock_guard lock(mutex_);
  if (thread_ended_) {
    // Destroying kj objects outside their thread is undefined: leak them.
    const auto* const leaked = new std::shared_ptr<void>(std::move(remains));
#ifdef __SANITIZE_ADDRESS__
    __lsan_ignore_object(leaked);
#else
    static_cast<void>(leaked);
#endif
    return false;
  }
  grave_.push_back(std::move(remains));
  occupied_.store(true, std::memory_order_release);
  return true;
}

void ThreadLoop::Exhume() {
  if (!occupied_.load(std::memory_order_acquire)) return;
  std::vector<std::shared_ptr<void>> remains;
  {
    const std::lock_guard lock(mutex_);
    occupied_.store(false, std::memory_order_relaxed);
    remains.swap(grave_);
  }
  remains.clear();
}

}  // namespace kvant::client
