// One kj event loop per thread, shared by all connections of that thread.
//
// kj allows one loop per thread. The loop is made by the first connection and ends with the last one. An object whose last
// handle goes in another thread than its loop's is kept until the owning thread's next call into the library, or its end.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include <kvant/result.h>

#include "protocol/event_loop.h"

namespace kvant::client {

class ThreadLoop {
 public:
  /// The calling thread's loop. kUnsupported if the host runs a kj event loop of its own in this thread or the thread inherited
  /// one through fork(), kSystem if kj cannot start.
  static Result<std::shared_ptr<ThreadLoop>> ForThisThread();

  ~ThreadLoop();
  ThreadLoop(const ThreadLoop&) = delete;
  ThreadLoop& operator=(const ThreadLoop&) = delete;

  /// Thread-safe.
  [[nodiscard]] bool InThisThread() const noexcept;

  [[nodiscard]] wire::EventLoop& events() noexcept { return events_; }

  /// True in a child of the process that made the loop: nothing of it may be used or destroyed there. Thread-safe.
  [[nodiscard]] bool Inherited() const noexcept;

  /// Keeps `object` until the owning thread can destroy it. If that thread has ended the object is leaked, and false is
  /// returned. Thread-safe. shared_ptr<void> because objects of any type are kept.
  bool DestroyLater(std::shared_ptr<void> object);

  /// Destroys what other threads left. Owning thread only.
  void DestroyLeft();

 private:
  struct ThreadEnd;
  explicit ThreadLoop(std::uint64_t thread);

  wire::EventLoop events_;
  const std::uint64_t thread_;
  const std::uint64_t fork_generation_;
  std::atomic<bool> any_left_{false};  // whether left_ holds something: every call asks, and most find nothing
  std::mutex mutex_;                   // guards the two below
  std::vector<std::shared_ptr<void>> left_;
  bool thread_ended_ = false;
};

/// Never destroys `object`: kj objects outside their thread, or in a child process, cannot be.
void Leak(std::shared_ptr<void> object);

}  // namespace kvant::client
