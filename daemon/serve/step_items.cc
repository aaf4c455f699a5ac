#include "daemon/serve/step_items.h"

#include "daemon/serve/attend_service.h"
#include "daemon/serve/session_messages.h"

namespace kvant::daemon {
namespace {

/// Adds an item to those that run, unless its outcome is clear already.
void AddAttend(Session& session, wire::AttendItem::Reader item, Result<void>& outcome, AttendBatch& batch) {
  auto view = session.View(item.getSequence());
  if (!view) {
    outcome = view.error();
    return;
  }
  auto call = ReadAttend(session, item);
  if (!call) {
    outcome = call.error();
    return;
  }
  call->sequence = view->sequence;
  call->outcome = &outcome;
  batch.calls.push_back(*call);
  session.CountAttend();
}

}  // namespace

Result<void> AppendItem(Session& session, wire::AppendItem::Reader from) {
  auto call = ReadAppend(session, from);
  if (!call) return call.error();
  return session.Append(*call);
}

std::span<const Result<void>> AttendItems(Session& session, capnp::List<wire::AttendItem>::Reader items) {
  AttendService& service = session.services().attend;
  AttendBatch& batch = service.Begin(items.size());
  for (unsigned i = 0; i < items.size(); ++i) AddAttend(session, items[i], batch.outcomes[i], batch);
  service.Run(batch.calls);
  return batch.outcomes;
}

std::span<const Result<void>> StepItems(Session& session, capnp::List<wire::StepItem>::Reader items) {
  AttendService& service = session.services().attend;
  AttendBatch& batch = service.Begin(items.size());
  for (unsigned i = 0; i < items.size(); ++i) {
    const wire::StepItem::Reader item = items[i];
    Result<void>& outcome = batch.outcomes[i];
    if (item.hasAppend() && item.getAppend().getSequence() != item.getAttend().getSequence()) {
      outcome = Error{ErrorCode::kInvalidArgument, "step: append names another sequence than attend"};
    } else if (item.hasAppend()) {
      outcome = AppendItem(session, item.getAppend());
    }
    if (outcome) AddAttend(session, item.getAttend(), outcome, batch);
  }
  service.Run(batch.calls);
  return batch.outcomes;
}

}  // namespace kvant::daemon
