// One kj event loop per thread, shared by all connections of that thread.
//
// kj allows one loop per thread. The loop is made by the first connection and ends with the last one. Objects that are
// destroyed on another thread than their loop's are buried: kept until the owning thread's next call into the library, or its
// end.
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
  /// The calling thread's loop. kUnsupported if the host runs a kj event loop of its own in this thread, kSystem if kj cannot
  /// start.
  static Result<std::shared_ptr<ThreadLoop>> ForThisThread();

  ~ThreadLoop();
  ThreadLoop(const ThreadLoop&) = delete;
  ThreadLoop& operator=(const ThreadLoop&) = delete;

  /// Thread-safe.
  [[nodiscard]] bool InThisThread() const noexcept;

  [[nodiscard]] wire::EventLoop& events() noexcept { return events_; }

  /// Keeps `remains` until the owning thread can destroy them. If that thread has ended they are leaked, and false is returned.
  /// Thread-safe. shared_ptr<void> because the grave holds any type.
  bool Bury(std::shared_ptr<void> remains);

  /// Destroys what was buried. Owning thread only.
  void Exhume();

 private:
  struct ThreadEnd;
  explicit ThreadLoop(std::uint64_t thread) : thread_(thread) {}

  wire::EventLoop events_;
  const std::uint64_t thread_;
  std::atomic<bool> occupied_{false};  // something lies in grave_: every call asks, and most find nothing
  std::mutex mutex_;                   // guards the two below
  std::vector<std::shared_ptr<void>> grave_;
  bool thread_ended_ = false;
};

}  // namespace kvant::client
