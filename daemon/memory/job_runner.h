// Work away from the loop thread.
#pragma once

#include <functional>

namespace kvant::daemon {

/// Runs jobs somewhere and hands their ends back. Implementations: WorkerThreads (daemon), a queue that tests drain.
class JobRunner {
 public:
  virtual ~JobRunner() = default;

  /// Runs `job` once on any thread, then `done` once on the loop thread, never from inside Submit. `done` is called even if
  /// `job` throws (for lack of memory, say), so an outcome that both share must be an error until the job has set it.
  /// A runner that is destroyed drops what has not begun (job and done) and waits for what has.
  virtual void Submit(std::function<void()> job, std::function<void()> done) = 0;
};

}  // namespace kvant::daemon
