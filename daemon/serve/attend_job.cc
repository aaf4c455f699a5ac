#include "daemon/serve/attend_job.h"

#include <algorithm>
#include <exception>
#include <string>
#include <utility>

namespace kvant::daemon {
namespace {

constexpr std::size_t kPartsOfFewQueries = 2048;

}  // namespace

Result<void> AttendJob::Add(std::size_t index, std::uint64_t id, const AttendCall& call) {
  auto request = RequestOf(call);
  if (!request) return request.error();
  items_.push_back(
      {.index = index, .sequence = id, .pinned = PinnedSequence(*call.sequence, call.unnamed), .request = *request});
  const StoreSpec& spec = items_.back().pinned.plan().spec();
  // Two parts per query, or runs of few queries; each with sums in the codec's space and in that of rows.
  const std::size_t parts = 2 * std::max<std::size_t>(std::size_t{call.q.tokens} * call.q.heads, kPartsOfFewQueries);
  scratch_bytes_ += parts * (2 * spec.head_dim + 4) * sizeof(float);
  if (spec.key_stage == KeyStage::kBeforeRope) {
    turned_bytes_ += call.sequence->tail().layout.capacity * std::size_t{spec.kv_heads} * spec.head_dim * sizeof(float);
  }
  return {};
}

bool AttendJob::Continue(quantizers::Executor& executor, const std::function<bool()>& pause) {
  const bool ended = Work(executor, pause);
  if (ended) attention_.reset();  // and its scratch
  return ended;
}

bool AttendJob::Work(quantizers::Executor& executor, const std::function<bool()>& pause) {
  try {
    for (; checked_ < items_.size(); ++checked_) {
      if (EndIfCancelled()) return true;
      if (pause()) return false;
      Item& item = items_[checked_];
      auto made = quantizers::MakeItem(item.pinned.plan(), item.pinned.cache(), item.request, item.view);
      if (made) {
        attend_items_.push_back(*made);
      } else {
        item.outcome = made.error();
      }
    }
    if (attend_items_.empty()) return true;
    if (!attention_) {
      attention_.emplace(executor);
      attention_->Begin(attend_items_);
    }
    if (!attention_->Continue([&] { return cancelled() || pause(); })) return EndIfCancelled();
    TakeResults();
    return true;
  } catch (const std::exception& failure) {
    RefuseAll({ErrorCode::kSystem, std::string("attend: ") + failure.what()});
    return true;
  }
}

bool AttendJob::EndIfCancelled() {
  if (!cancelled()) return false;
  RefuseAll({ErrorCode::kUnavailable, "attend: the daemon is ending"});
  return true;
}

void AttendJob::RefuseAll(const Error& error) {
  for (Item& item : items_) item.outcome = error;
}

void AttendJob::TakeResults() {
  auto computed = attend_items_.begin();
  for (Item& item : items_) {
    if (item.outcome) item.outcome = quantizers::CheckResult(*computed++);
  }
}

}  // namespace kvant::daemon
