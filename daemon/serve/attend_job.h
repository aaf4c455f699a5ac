// A call of attention that outlives the turn of the loop that read it.
#pragma once

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

namespace kvant::daemon {

/// Keeps what attention reads of a sequence where it is: the switched blocks by a lease on the last of them, the raw rows by
/// the mapping they lie in. Made and destroyed on the loop thread.
class PinnedSequence {
 public:
  explicit PinnedSequence(const Sequence& sequence);
  PinnedSequence(PinnedSequence&& other) noexcept;
  PinnedSequence& operator=(PinnedSequence&&) = delete;
  ~PinnedSequence();

  [[nodiscard]] std::uint64_t id() const noexcept { return id_; }
  [[nodiscard]] std::uint64_t length() const noexcept { return length_; }
  [[nodiscard]] const TailView& tail() const noexcept { return tail_; }

  /// False if rows that were raw may have been written again since: the sequence was trimmed or closed, or blocks switched.
  /// That happens only under readers of other sessions, for the owner's own calls wait.
  [[nodiscard]] bool Unchanged(const SequenceTable& sequences) const;

 private:
  std::shared_ptr<Store> store_;
  std::uint64_t id_;
  std::uint64_t length_;
  std::uint64_t rewrites_;
  TailView tail_;
  Block* leased_ = nullptr;  // null: no blocks, or moved from
};

/// Made, filled and destroyed on the loop thread; Continue runs on the thread that computes. Outcomes may be read once it has
/// ended.
class AttendJob {
 public:
  struct Item {
    std::size_t index = 0;       ///< within the request
    std::uint64_t sequence = 0;  ///< as the request named it: a reader's id, perhaps
    PinnedSequence pinned;
    std::uint32_t layer = 0;
    std::uint32_t new_tokens = 0;
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

  [[nodiscard]] const std::vector<Item>& items() const noexcept { return items_; }

 private:
  /// What a quantizers::AttendItem refers to. Never moved: it lies on the heap.
  struct Cache {
    CachedRows rows;
    std::vector<const std::byte*> blocks;
  };
  bool EndIfCancelled();
  void RefuseAll(const Error& error);

  const std::vector<std::shared_ptr<const Arena>> arenas_;
  std::atomic<bool> cancelled_{false};
  std::vector<Item> items_;
  std::vector<std::unique_ptr<Cache>> caches_;        // of items_
  std::vector<quantizers::AttendItem> attend_items_;  // of items_
  std::size_t checked_ = 0;                           // of items_: new rows are finite, or the outcome says so
  std::vector<quantizers::AttendItem> computed_;      // those that are
  std::optional<quantizers::Attention> attention_;
};

}  // namespace kvant::daemon
