// Threads that run the daemon's jobs.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "daemon/memory/job_runner.h"

namespace kvant::daemon {

/// A queue and `threads` threads that take from it, first come first served. Submit is called on the loop thread.
class WorkerThreads final : public JobRunner {
 public:
  /// Must run the given function on the loop thread, in order; called on worker threads.
  using PostToLoop = std::function<void(std::function<void()>)>;
  /// Hears of jobs that threw; called on the loop thread.
  using Report = std::function<void(const std::string& what)>;

  /// `name` is what the system calls the threads (15 characters at most). They run at a nice value that is greater by `nicer`
  /// than the caller's.
  WorkerThreads(const char* name, std::size_t threads, int nicer, PostToLoop post, Report job_failed);
  /// Drops jobs that have not begun, waits for those that have. The loop must still accept posts, though it need not run them.
  ~WorkerThreads() override;
  WorkerThreads(const WorkerThreads&) = delete;
  WorkerThreads& operator=(const WorkerThreads&) = delete;

  void Submit(std::function<void()> job, std::function<void()> done) override;

 private:
  struct Job {
    std::function<void()> run;
    std::function<void()> done;
  };
  void Work();

  const char* const name_;
  const int nicer_;
  const PostToLoop post_;
  const Report job_failed_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job> queue_;  // guarded by mutex_
  bool stop_ = false;      // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace kvant::daemon
