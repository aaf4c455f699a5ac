// Blocks copied from a client's arena into their slots, beside the loop.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include <kvant/result.h>

#include "daemon/memory/arena.h"
#include "daemon/serve/long_job.h"
#include "daemon/snapshot/restoration.h"

namespace kvant::daemon {

/// The outcome may be read once it has ended.
class RestoreJob final : public LongJob {
 public:
  struct Copy {
    SlotToFill to;
    const std::byte* from = nullptr;  ///< `to.bytes` bytes in one of the arenas
  };

  /// `arenas` are kept mapped, `restoration` alive.
  RestoreJob(std::vector<std::shared_ptr<const Arena>> arenas, std::shared_ptr<Restoration> restoration,
             std::vector<Copy> copies)
      : arenas_(std::move(arenas)), restoration_(std::move(restoration)), copies_(std::move(copies)) {}

  bool Continue(quantizers::Executor& executor, const std::function<bool()>& pause) override;
  void Cancel() noexcept override { cancelled_.store(true, std::memory_order_relaxed); }
  [[nodiscard]] std::size_t scratch_bytes() const noexcept override { return 0; }

  [[nodiscard]] const Result<void>& outcome() const noexcept { return outcome_; }

 private:
  const std::vector<std::shared_ptr<const Arena>> arenas_;
  const std::shared_ptr<Restoration> restoration_;
  const std::vector<Copy> copies_;
  std::size_t copy_ = 0;
  std::size_t done_ = 0;  // bytes of that one
  Result<void> outcome_;
  std::atomic<bool> cancelled_{false};
};

}  // namespace kvant::daemon
