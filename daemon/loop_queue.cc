#include "daemon/loop_queue.h"

#include <cstdint>
#include <utility>

#include <kj/debug.h>
#include <unistd.h>

namespace kvant::daemon {

LoopQueue::LoopQueue(kj::UnixEventPort& port, protocol::UniqueFd eventfd, Report work_failed, Report broken)
    : work_failed_(std::move(work_failed)),
      eventfd_(std::move(eventfd)),
      observer_(port, eventfd_.get(), kj::UnixEventPort::FdObserver::OBSERVE_READ),
      drain_(Drain().eagerlyEvaluate([broken = std::move(broken)](kj::Exception&& exception) { broken(exception); })) {}

void LoopQueue::Post(std::function<void()> work) {
  {
    const std::lock_guard lock(mutex_);
    posted_.push_back(std::move(work));
  }
  const std::uint64_t one = 1;
  // Fails only if the counter is at its end, and then the loop will wake anyway.
  [[maybe_unused]] const auto written = ::write(eventfd_.get(), &one, sizeof(one));
}

void LoopQueue::Discard() {
  std::vector<std::function<void()>> posted;
  {
    const std::lock_guard lock(mutex_);
    posted.swap(posted_);
  }
}

kj::Promise<void> LoopQueue::Drain() {
  return observer_.whenBecomesReadable().then([this] {
    std::uint64_t count = 0;
    [[maybe_unused]] const auto read = ::read(eventfd_.get(), &count, sizeof(count));
    {
      const std::lock_guard lock(mutex_);
      running_.swap(posted_);
    }
    for (auto& work : running_) {
      const auto failure = kj::runCatchingExceptions([&work] { work(); });
      KJ_IF_MAYBE (exception, failure) work_failed_(*exception);
    }
    running_.clear();
    return Drain();
  });
}

}  // namespace kvant::daemon
