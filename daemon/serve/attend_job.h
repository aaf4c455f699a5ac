// A call of attention that outlives the turn of the loop that read it.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <kvant/result.h>

#include "daemon/memory/arena.h"
#include "daemon/serve/attend_service.h"
#include "daemon/serve/long_job.h"
#include "daemon/serve/pinned_sequence.h"
#include "quantizers/attention/attention.h"
#include "quantizers/sequence/view.h"

namespace kvant::daemon {

/// Filled on the loop thread. Outcomes may be read once it has ended.
class AttendJob final : public LongJob {
 public:
  struct Item {
    std::size_t index = 0;       ///< within the request
    std::uint64_t sequence = 0;  ///< as the request named it: a reader's id, perhaps
    PinnedSequence pinned;
    quantizers::AttendRequest request;
    quantizers::LayerView view{};  ///< what the attention over it refers to
    Result<void> outcome{};
  };

  /// `arenas` are kept mapped: requests name places there.
  explicit AttendJob(std::vector<std::shared_ptr<const Arena>> arenas) : arenas_(std::move(arenas)) {}

  /// An error is the item's outcome; then it is not added. Not after the first Continue.
  Result<void> Add(std::size_t index, std::uint64_t id, const AttendCall& call);

  /// Checks and computes.
  bool Continue(quantizers::Executor& executor, const std::function<bool()>& pause) override;
  /// Its items are refused.
  void Cancel() noexcept override { cancelled_.store(true, std::memory_order_relaxed); }
  [[nodiscard]] bool cancelled() const noexcept { return cancelled_.load(std::memory_order_relaxed); }

  [[nodiscard]] const std::vector<Item>& items() const noexcept { return items_; }
  /// Grows with Add.
  [[nodiscard]] std::size_t scratch_bytes() const noexcept override {
    return std::min(scratch_bytes_, quantizers::Attention::kPartialBytes) + turned_bytes_;
  }

 private:
  bool Work(quantizers::Executor& executor, const std::function<bool()>& pause);
  bool EndIfCancelled();
  void RefuseAll(const Error& error);
  void TakeResults();

  const std::vector<std::shared_ptr<const Arena>> arenas_;
  std::atomic<bool> cancelled_{false};
  std::vector<Item> items_;
  std::size_t scratch_bytes_ = 0;                     // of partial results, if they were all there at once
  std::size_t turned_bytes_ = 0;                      // of raw keys that come before RoPE
  std::size_t checked_ = 0;                           // of items_: the outcome says what is wrong with them
  std::vector<quantizers::AttendItem> attend_items_;  // of those in which nothing is; refer to items_
  std::optional<quantizers::Attention> attention_;
};

}  // namespace kvant::daemon
