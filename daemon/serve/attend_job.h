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
#include "daemon/store/sequence.h"
#include "quantizers/attention/attention.h"
#include "quantizers/sequence/view.h"

namespace kvant::daemon {

/// Keeps what attention reads of a sequence where it is: the switched blocks by a lease on the last of them, the raw rows by
/// the mapping they lie in. Made and destroyed on the loop thread.
class PinnedSequence {
 public:
  explicit PinnedSequence(const Sequence& sequence);
  PinnedSequence(PinnedSequence&& other) noexcept;
  PinnedSequence& operator=(PinnedSequence&&) = delete;
  ~PinnedSequence();

  [[nodiscard]] const quantizers::Plan& plan() const noexcept { return *store_->plan(); }
  /// As the sequence was when it was pinned.
  [[nodiscard]] const quantizers::CachedSequence& cache() const noexcept { return cache_; }

  /// False if rows that were raw may have been written again since: the sequence was trimmed or closed, or blocks switched.
  /// That happens only under readers of other sessions, for the owner's own calls wait.
  [[nodiscard]] bool Unchanged(const SequenceTable& sequences) const;

 private:
  std::shared_ptr<Store> store_;
  std::uint64_t id_;
  std::uint64_t rewrites_;
  std::shared_ptr<const void> mapping_;   // of the tail
  std::vector<const std::byte*> blocks_;  // the sequence's own list changes
  quantizers::CachedSequence cache_;      // refers to blocks_, whose elements stay where they are when this is moved
  Block* leased_ = nullptr;               // null: no blocks, or moved from
};

/// Made, filled and destroyed on the loop thread; Continue runs on the thread that computes. Outcomes may be read once it has
/// ended.
class AttendJob {
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

  /// Checks and computes until all is done or the job was cancelled (true), or `pause` says true (false). Every time with the
  /// same executor.
  bool Continue(quantizers::Executor& executor, const std::function<bool()>& pause);

  /// From any thread: the job ends soon, and its items are refused.
  void Cancel() noexcept { cancelled_.store(true, std::memory_order_relaxed); }
  [[nodiscard]] bool cancelled() const noexcept { return cancelled_.load(std::memory_order_relaxed); }

  [[nodiscard]] const std::vector<Item>& items() const noexcept { return items_; }
  /// Memory that the job takes from its first Continue until it has ended, about. It grows with Add.
  [[nodiscard]] std::size_t scratch_bytes() const noexcept {
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
