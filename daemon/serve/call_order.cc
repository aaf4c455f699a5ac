#include "daemon/serve/call_order.h"

#include <algorithm>
#include <utility>

namespace kvant::daemon {

kj::Promise<void> CallOrder::Run(std::vector<std::uint64_t> ids, CallNeeds needs, Body body) {
  Waiting call{SourcesOf(ids), needs, kj::mv(body), {}};
  if (!BehindAnother(call.ids, waiting_.end())) {
    Sequence* busy = FirstBusy(call.ids, call.needs);
    if (busy == nullptr) return call.body();
    WakeWhenSettled(*busy);
    call.woken = false;
  }
  auto pair = kj::newPromiseAndFulfiller<kj::Promise<void>>();
  call.promise = kj::mv(pair.fulfiller);
  waiting_.push_back(kj::mv(call));
  return kj::mv(pair.promise);
}

bool CallOrder::Free(std::span<const std::uint64_t> ids, CallNeeds needs) const {
  return waiting_.empty() && (held_back_.empty() || !HeldBack(SourcesOf(ids))) && FirstBusy(ids, needs) == nullptr;
}

/// A reader and its source are one sequence here.
std::vector<std::uint64_t> CallOrder::SourcesOf(std::span<const std::uint64_t> ids) const {
  std::vector<std::uint64_t> sources(ids.begin(), ids.end());
  for (std::uint64_t& id : sources) {
    if (const Sequence* sequence = find_(id)) id = sequence->id();
  }
  return sources;
}

kj::Own<CallOrder::GoesOn> CallOrder::HoldBack(std::span<const std::uint64_t> ids) {
  return kj::heap<GoesOn>(shared_from_this(), SourcesOf(ids));
}

CallOrder::GoesOn::GoesOn(std::shared_ptr<CallOrder> order, std::vector<std::uint64_t> sources)
    : order_(std::move(order)), place_(order_->held_back_.insert(order_->held_back_.end(), std::move(sources))) {}

CallOrder::GoesOn::~GoesOn() {
  order_->held_back_.erase(place_);
  order_->Wake();
}

bool CallOrder::HeldBack(std::span<const std::uint64_t> sources) const {
  return std::ranges::any_of(held_back_, [sources](const std::vector<std::uint64_t>& held) {
    return std::ranges::find_first_of(sources, held) != sources.end();
  });
}

Sequence* CallOrder::FirstBusy(std::span<const std::uint64_t> ids, CallNeeds needs) const {
  if (needs != CallNeeds::kSettled) return nullptr;
  for (const std::uint64_t id : ids) {
    Sequence* sequence = find_(id);
    if (sequence != nullptr && !sequence->settled()) return sequence;
  }
  return nullptr;
}

bool CallOrder::BehindAnother(const std::vector<std::uint64_t>& ids, std::list<Waiting>::const_iterator end) const {
  return HeldBack(ids) || std::any_of(waiting_.begin(), end, [&ids](const Waiting& earlier) {
           return std::ranges::find_first_of(ids, earlier.ids) != ids.end();
         });
}

void CallOrder::WakeWhenSettled(Sequence& sequence) {
  sequence.WhenSettled([self = weak_from_this()] {
    if (const auto order = self.lock()) order->Wake();
  });
}

/// Sequences call this from inside their own work: what may begin now begins in a turn of its own. What arrives in between
/// queues.
void CallOrder::Wake() {
  for (Waiting& call : waiting_) call.woken = true;
  if (beginning_) {
    again_ = true;
    return;
  }
  if (std::exchange(scheduled_, true)) return;
  turn_ = kj::evalLater([this] {
            scheduled_ = false;
            beginning_ = true;
            do {
              again_ = false;
              BeginThoseThatMay();
            } while (again_);
            beginning_ = false;
          }).eagerlyEvaluate(nullptr);
}

void CallOrder::BeginThoseThatMay() {
  for (auto call = waiting_.begin(); call != waiting_.end();) {
    if (!call->woken || BehindAnother(call->ids, call)) {
      ++call;
      continue;
    }
    if (Sequence* busy = FirstBusy(call->ids, call->needs)) {
      call->woken = false;
      WakeWhenSettled(*busy);
      ++call;
      continue;
    }
    // Begun before it leaves the queue, so that nothing overtakes it; its failure is this call's alone.
    call->promise->fulfill(kj::evalNow([&] { return call->body(); }));
    call = waiting_.erase(call);
  }
}

}  // namespace kvant::daemon
