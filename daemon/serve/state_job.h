// A state copied from a client's arena into its slot, beside the loop.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include <kvant/result.h>

#include "daemon/memory/arena.h"
#include "daemon/serve/long_job.h"
#include "daemon/store/sequence.h"

namespace kvant::daemon {

/// The outcome may be read once it has ended.
class StateJob final : public LongJob {
 public:
  /// Copies `state.slot->bytes()` bytes at `from`, which lie in one of `arenas`; those are kept mapped, `store` alive.
  StateJob(std::vector<std::shared_ptr<const Arena>> arenas, std::shared_ptr<Store> store, NewState state,
           const std::byte* from);

  bool Continue(quantizers::Executor& executor, const std::function<bool()>& pause) override;
  void Cancel() noexcept override { cancelled_.store(true, std::memory_order_relaxed); }
  [[nodiscard]] std::size_t scratch_bytes() const noexcept override { return 0; }

  [[nodiscard]] const NewState& state() const noexcept { return state_; }
  [[nodiscard]] const Result<void>& outcome() const noexcept { return outcome_; }

 private:
  const std::vector<std::shared_ptr<const Arena>> arenas_;
  const std::shared_ptr<Store> store_;  // before the slot, which goes back to it
  const NewState state_;
  const std::byte* const from_;
  std::size_t done_ = 0;  // bytes
  Result<void> outcome_;
  std::atomic<bool> cancelled_{false};
};

}  // namespace kvant::daemon
