// A sequence held where it is while a job reads it beside the loop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "daemon/store/sequence.h"
#include "quantizers/plan.h"
#include "quantizers/sequence/view.h"

namespace kvant::daemon {

/// Keeps what attention reads of a sequence where it is: the switched blocks by a lease on the last of them, the raw rows by
/// the mapping they lie in. Made and destroyed on the loop thread.
class PinnedSequence {
 public:
  /// `unnamed` as in Sequence::Cache.
  explicit PinnedSequence(const Sequence& sequence, std::uint64_t unnamed = 0);
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
  std::vector<const std::byte*> blocks_;  // the sequence's own lists change
  std::vector<std::uint8_t> sections_;
  quantizers::CachedSequence cache_;  // refers to blocks_ and sections_, whose elements stay where they are when this is moved
  Block* leased_ = nullptr;           // null: no blocks, or moved from
};

}  // namespace kvant::daemon
