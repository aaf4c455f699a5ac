// Rows of one layer copied to a client's arena, beside the loop.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <vector>

#include <kvant/result.h>

#include "daemon/memory/arena.h"
#include "daemon/serve/long_job.h"
#include "daemon/serve/pinned_sequence.h"
#include "quantizers/sequence/decode.h"

namespace kvant::daemon {

/// Works off its rows a block at a time. The outcome may be read once it has ended.
class CopyJob final : public LongJob {
 public:
  /// `arenas` are kept mapped: the request names places there. `unnamed` as in Sequence::Cache. Requires: the request is
  /// checked.
  CopyJob(std::vector<std::shared_ptr<const Arena>> arenas, const Sequence& sequence, std::uint64_t unnamed,
          const quantizers::RowsRequest& request);

  bool Continue(quantizers::Executor& executor, const std::function<bool()>& pause) override;
  void Cancel() noexcept override { cancelled_.store(true, std::memory_order_relaxed); }
  [[nodiscard]] bool cancelled() const noexcept { return cancelled_.load(std::memory_order_relaxed); }
  [[nodiscard]] std::size_t scratch_bytes() const noexcept override;

  [[nodiscard]] const PinnedSequence& pinned() const noexcept { return pinned_; }
  [[nodiscard]] const Result<void>& outcome() const noexcept { return outcome_; }

 private:
  const std::vector<std::shared_ptr<const Arena>> arenas_;
  const PinnedSequence pinned_;
  const quantizers::RowsRequest request_;
  quantizers::BlockDecoder decoder_;
  std::size_t done_ = 0;  // rows
  Result<void> outcome_;
  std::atomic<bool> cancelled_{false};
};

}  // namespace kvant::daemon
