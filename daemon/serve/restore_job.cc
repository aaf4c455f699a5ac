#include "daemon/serve/restore_job.h"

#include <algorithm>
#include <cstring>

namespace kvant::daemon {
namespace {

/// Copied between two looks at who else waits: some hundred microseconds.
constexpr std::size_t kPieceBytes = std::size_t{1} << 20;

}  // namespace

bool RestoreJob::Continue(quantizers::Executor&, const std::function<bool()>& pause) {
  while (outcome_ && copy_ < copies_.size()) {
    const auto& [to, from] = copies_[copy_];
    if (done_ == 0) outcome_ = to.Populate();
    while (outcome_ && done_ < to.bytes) {
      if (cancelled_.load(std::memory_order_relaxed)) {
        outcome_ = Error{ErrorCode::kUnavailable, "restore: the daemon is ending"};
        return true;
      }
      if (pause()) return false;
      const std::size_t bytes = std::min<std::size_t>(kPieceBytes, to.bytes - done_);
      std::memcpy(to.payload + done_, from + done_, bytes);
      done_ += bytes;
    }
    if (outcome_) outcome_ = to.Finish();
    ++copy_;
    done_ = 0;
  }
  return true;
}

}  // namespace kvant::daemon
