// A call's work that outlives the turn of the loop that read it: what LongAttention runs.
#pragma once

#include <cstddef>
#include <functional>

#include "quantizers/attention/attention.h"

namespace kvant::daemon {

/// Made and destroyed on the loop thread.
class LongJob {
 public:
  virtual ~LongJob() = default;

  /// Works until all is done or the job was cancelled (true), or `pause`, which is asked every few milliseconds, says true
  /// (false). On the thread that computes, every time with the same executor.
  virtual bool Continue(quantizers::Executor& executor, const std::function<bool()>& pause) = 0;

  /// From any thread: the job ends soon.
  virtual void Cancel() noexcept = 0;

  /// Memory that the job takes from its first Continue until it has ended, about.
  [[nodiscard]] virtual std::size_t scratch_bytes() const noexcept = 0;
};

}  // namespace kvant::daemon
