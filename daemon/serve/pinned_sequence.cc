#include "daemon/serve/pinned_sequence.h"

#include <utility>

namespace kvant::daemon {

PinnedSequence::PinnedSequence(const Sequence& sequence, std::uint64_t unnamed)
    : store_(sequence.store().shared_from_this()),
      id_(sequence.id()),
      rewrites_(sequence.rewrites()),
      mapping_(sequence.tail().mapping),
      cache_(sequence.Cache(unnamed)) {
  blocks_.assign(cache_.blocks.begin(), cache_.blocks.end());
  cache_.blocks = blocks_;
  sections_.assign(cache_.sections.begin(), cache_.sections.end());
  cache_.sections = sections_;
  if (blocks_.empty()) return;
  leased_ = sequence.blocks()[blocks_.size() - 1];  // and so all before it, and the sinks beside the first
  store_->index().AddLease(*leased_);
}

PinnedSequence::PinnedSequence(PinnedSequence&& other) noexcept
    : store_(other.store_),
      id_(other.id_),
      rewrites_(other.rewrites_),
      mapping_(other.mapping_),
      blocks_(std::move(other.blocks_)),
      sections_(std::move(other.sections_)),
      cache_(other.cache_),
      leased_(std::exchange(other.leased_, nullptr)) {}

PinnedSequence::~PinnedSequence() {
  if (leased_ != nullptr) store_->index().DropLease(*leased_);
}

bool PinnedSequence::Unchanged(const SequenceTable& sequences) const {
  const auto sequence = sequences.Find(id_);
  return sequence && (*sequence)->rewrites() == rewrites_;
}

}  // namespace kvant::daemon
