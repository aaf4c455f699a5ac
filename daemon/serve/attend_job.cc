#include "daemon/serve/attend_job.h"

#include <exception>
#include <string>
#include <utility>

namespace kvant::daemon {

PinnedSequence::PinnedSequence(const Sequence& sequence)
    : store_(sequence.store().shared_from_this()),
      id_(sequence.id()),
      length_(sequence.length()),
      rewrites_(sequence.rewrites()),
      tail_(sequence.tail()) {
  if (sequence.switched_blocks() == 0) return;
  leased_ = sequence.blocks()[sequence.switched_blocks() - 1];  // and so all before it
  store_->index().AddLease(*leased_);
}

PinnedSequence::PinnedSequence(PinnedSequence&& other) noexcept
    : store_(other.store_),
      id_(other.id_),
      length_(other.length_),
      rewrites_(other.rewrites_),
      tail_(other.tail_),
      leased_(std::exchange(other.leased_, nullptr)) {}

PinnedSequence::~PinnedSequence() {
  if (leased_ != nullptr) store_->index().DropLease(*leased_);
}

bool PinnedSequence::Unchanged(const SequenceTable& sequences) const {
  const auto sequence = sequences.Find(id_);
  return sequence && (*sequence)->rewrites() == rewrites_;
}

Result<void> AttendJob::Add(std::size_t index, std::uint64_t id, const AttendCall& call) {
  auto cache = std::make_unique<Cache>();
  auto item = MakeItem(call, cache->rows);
  if (!item) return item.error();
  cache->blocks.assign(cache->rows.blocks.begin(), cache->rows.blocks.end());
  item->cache.blocks = cache->blocks;
  attend_items_.push_back(*item);
  caches_.push_back(std::move(cache));
  items_.push_back({.index = index,
                    .sequence = id,
                    .pinned = PinnedSequence(*call.sequence),
                    .layer = call.layer,
                    .new_tokens = call.new_tokens});
  return {};
}

bool AttendJob::Continue(quantizers::Executor& executor, const std::function<bool()>& pause) {
  try {
    for (; checked_ < items_.size(); ++checked_) {
      if (EndIfCancelled()) return true;
      if (pause()) return false;
      Item& item = items_[checked_];
      item.outcome =
          CheckNewRowsFinite(item.pinned.tail(), item.pinned.id(), item.pinned.length(), item.layer, item.new_tokens);
      if (item.outcome) computed_.push_back(attend_items_[checked_]);
    }
    if (computed_.empty()) return true;
    if (!attention_) {
      attention_.emplace(executor);
      attention_->Begin(computed_);
    }
    const bool done = attention_->Continue([&] { return cancelled_.load(std::memory_order_relaxed) || pause(); });
    return done || EndIfCancelled();
  } catch (const std::exception& failure) {
    RefuseAll({ErrorCode::kSystem, std::string("attend: ") + failure.what()});
    return true;
  }
}

bool AttendJob::EndIfCancelled() {
  if (!cancelled_.load(std::memory_order_relaxed)) return false;
  RefuseAll({ErrorCode::kUnavailable, "attend: the daemon is ending"});
  return true;
}

void AttendJob::RefuseAll(const Error& error) {
  for (Item& item : items_) item.outcome = error;
}

}  // namespace kvant::daemon
