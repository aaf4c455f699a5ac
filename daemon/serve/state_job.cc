#include "daemon/serve/state_job.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "protocol/block_format.h"

namespace kvant::daemon {
namespace {

/// Copied between two looks at who else waits: some hundred microseconds.
constexpr std::size_t kPieceBytes = std::size_t{1} << 20;

}  // namespace

StateJob::StateJob(std::vector<std::shared_ptr<const Arena>> arenas, std::shared_ptr<Store> store, NewState state,
                   const std::byte* from)
    : arenas_(std::move(arenas)), store_(std::move(store)), state_(std::move(state)), from_(from) {}

bool StateJob::Continue(quantizers::Executor&, const std::function<bool()>& pause) {
  const StateSlot& slot = *state_.slot;
  const std::uint32_t block_tokens = store_->spec().block_tokens;
  std::byte* const begin = slot.slab()->slot(slot.slot().slot);
  if (done_ == 0) outcome_ = slot.slab()->Populate(slot.slot().slot);
  while (outcome_ && done_ < slot.bytes()) {
    if (cancelled_.load(std::memory_order_relaxed)) {
      outcome_ = Error{ErrorCode::kUnavailable, "put state: the daemon is ending"};
      return true;
    }
    if (pause()) return false;
    const std::size_t bytes = std::min<std::size_t>(kPieceBytes, slot.bytes() - done_);
    std::memcpy(begin + protocol::PayloadOffset(block_tokens) + done_, from_ + done_, bytes);
    done_ += bytes;
  }
  if (outcome_) protocol::FinishSlot(begin, block_tokens, state_.info, state_.tokens, slot.bytes());
  return true;
}

}  // namespace kvant::daemon
