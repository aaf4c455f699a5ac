// Calls that take long (attention, and rows that are read back) on a thread of their own, so that the event loop answers
// everybody else meanwhile.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "daemon/serve/long_job.h"
#include "daemon/worker_threads.h"

namespace kvant::daemon {

/// One computing thread with helpers of its own (the loop's helpers stay with short calls). Sessions take turns: whoever has
/// used least time goes next, for a slice of kSlice or until nobody else waits, so that one session's calls never hold up
/// another's. Jobs that have begun keep scratch memory; others begin when theirs fits beside it (kScratchBytes). All threads
/// run at a nice value above the caller's: where a short call wants the same core, it gets most of it.
///
/// Made, called and destroyed on the loop thread. Owned by the daemon.
class LongAttention {
 public:
  LongAttention(std::size_t threads, int nicer, WorkerThreads::PostToLoop post);
  /// Cancels what has not ended, waits until that has been posted.
  ~LongAttention();
  LongAttention(const LongAttention&) = delete;
  LongAttention& operator=(const LongAttention&) = delete;

  /// Runs `job`, then calls `done` on the loop thread: when all of it is done, or soon after it is cancelled.
  /// `session` says whose turn it takes. The jobs of one session run in the order in which they came.
  void Submit(const void* session, std::shared_ptr<LongJob> job, std::function<void()> done);

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kSlice{2};
  static constexpr std::size_t kScratchBytes = std::size_t{256} << 20;

  struct Entry {
    std::shared_ptr<LongJob> job;
    std::function<void()> done;
    bool begun = false;
  };
  /// The jobs of one session. It is there as long as there are any.
  struct Turn {
    const void* session = nullptr;
    std::deque<Entry> entries;
    Clock::duration used{0};
  };

  void Work(std::size_t threads, int nicer);
  Turn& NextTurn();

  const WorkerThreads::PostToLoop post_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Turn> turns_;               // guarded by mutex_
  std::size_t scratch_bytes_ = 0;         // of jobs that have begun; guarded by mutex_
  bool stop_ = false;                     // guarded by mutex_
  std::atomic<std::size_t> sessions_{0};  // turns_.size(), for the thread that computes
  std::thread thread_;
};

}  // namespace kvant::daemon
