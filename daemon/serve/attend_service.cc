#include "daemon/serve/attend_service.h"

#include <string>

namespace kvant::daemon {
namespace {

Error Invalid(const std::string& what) { return {ErrorCode::kInvalidArgument, "attend: " + what}; }

/// The room that a message gives for lse and sink logits.
Result<void> CheckRoom(const AttendCall& call) {
  const std::uint64_t rows = std::uint64_t{call.q.tokens} * call.q.heads;
  if (call.lse != nullptr && call.lse_floats != rows) {
    return Invalid("lse has room for " + std::to_string(call.lse_floats) + " numbers, [tokens, q_heads] are " +
                   std::to_string(rows));
  }
  if (call.sink_logits != nullptr && call.sink_floats != call.q.heads) {
    return Invalid("sink logits: " + std::to_string(call.sink_floats) + " numbers for " + std::to_string(call.q.heads) +
                   " query heads");
  }
  return {};
}

}  // namespace

AttendBatch& AttendService::Begin(std::size_t items) {
  batch_.calls.clear();
  batch_.outcomes.assign(items, {});
  return batch_;
}

void AttendService::Run(std::span<const AttendCall> calls) {
  views_.resize(calls.size());
  items_.clear();
  for (std::size_t i = 0; i < calls.size(); ++i) {
    const AttendCall& call = calls[i];
    Result<void>& outcome = *call.outcome;
    outcome = CheckRoom(call);
    if (!outcome) continue;
    const quantizers::AttendRequest request{.layer = call.layer,
                                            .new_rows = call.new_tokens,
                                            .q = call.q,
                                            .out = call.out,
                                            .lse = call.lse,
                                            .sink_logits = call.sink_logits,
                                            .scale = call.scale,
                                            .softcap = call.softcap,
                                            .window = call.window};
    auto item = quantizers::MakeItem(*call.sequence->store().plan(), call.sequence->Cache(), request, views_[i]);
    if (item) {
      items_.push_back(*item);
    } else {
      outcome = item.error();
    }
  }
  if (items_.empty()) return;
  attention_.Run(items_);
  std::size_t next = 0;
  for (const AttendCall& call : calls) {
    if (*call.outcome) *call.outcome = quantizers::CheckResult(items_[next++]);
  }
}

}  // namespace kvant::daemon
