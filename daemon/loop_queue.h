// Work for the event loop from other threads.
#pragma once

#include <functional>
#include <mutex>
#include <vector>

#include <kj/async-unix.h>

#include "protocol/memfd.h"

namespace kvant::daemon {

/// Made and destroyed on the loop thread; Post from anywhere while it lives (workers are joined before it goes).
class LoopQueue {
 public:
  using Report = std::function<void(const kj::Exception&)>;

  /// `work_failed` hears of posted work that threw; the queue goes on. `broken` hears that the queue itself has failed and will
  /// run nothing any more. Both are called on the loop thread.
  LoopQueue(kj::UnixEventPort& port, protocol::UniqueFd eventfd, Report work_failed, Report broken);
  LoopQueue(const LoopQueue&) = delete;
  LoopQueue& operator=(const LoopQueue&) = delete;

  /// Runs `work` on the loop thread, in the order posted.
  void Post(std::function<void()> work);

  /// Destroys what was posted and has not run, and all it holds. Loop thread, once nobody posts any more.
  void Discard();

 private:
  kj::Promise<void> Drain();

  std::mutex mutex_;
  std::vector<std::function<void()>> posted_;  // guarded by mutex_
  std::vector<std::function<void()>> running_;
  const Report work_failed_;
  protocol::UniqueFd eventfd_;
  kj::UnixEventPort::FdObserver observer_;
  kj::Promise<void> drain_;  // last: runs over the others
};

}  // namespace kvant::daemon
