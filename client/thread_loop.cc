#include "client/thread_loop.h"

#include <atomic>
#include <cstdint>
#include <utility>

#include <kj/exception.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

#include "client/process_fork.h"

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
    if (!held || held->Inherited()) return;
    std::vector<std::shared_ptr<void>> left;
    const std::lock_guard lock(held->mutex_);  // released before the objects are destroyed
    held->thread_ended_ = true;
    left.swap(held->left_);
  }
};

Result<std::shared_ptr<ThreadLoop>> ThreadLoop::ForThisThread() {
  thread_local ThreadEnd here;
  if (auto loop = here.loop.lock()) {
    if (!loop->Inherited()) return loop;
    return Error{ErrorCode::kUnsupported,
                 "start an event loop: this process was forked in a connected thread, whose loop stays the parent's; connect "
                 "from a new thread, or execute a program"};
  }
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

ThreadLoop::ThreadLoop(std::uint64_t thread) : thread_(thread), fork_generation_(ForkGeneration()) {}

ThreadLoop::~ThreadLoop() = default;

bool ThreadLoop::Inherited() const noexcept { return fork_generation_ != ForkGeneration(); }

bool ThreadLoop::InThisThread() const noexcept { return ThreadNumber() == thread_; }

bool ThreadLoop::DestroyLater(std::shared_ptr<void> object) {
  const std::lock_guard lock(mutex_);
  if (thread_ended_) {
    Leak(std::move(object));
    return false;
  }
  left_.push_back(std::move(object));
  any_left_.store(true, std::memory_order_release);
  return true;
}

void ThreadLoop::DestroyLeft() {
  if (!any_left_.load(std::memory_order_acquire)) return;
  std::vector<std::shared_ptr<void>> left;
  {
    const std::lock_guard lock(mutex_);
    any_left_.store(false, std::memory_order_relaxed);
    left.swap(left_);
  }
  left.clear();
}

void Leak(std::shared_ptr<void> object) {
  const auto* const leaked = new std::shared_ptr<void>(std::move(object));
#ifdef __SANITIZE_ADDRESS__
  __lsan_ignore_object(leaked);
#else
  static_cast<void>(leaked);
#endif
}

}  // namespace kvant::client
