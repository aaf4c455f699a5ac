// The call of wire::Session that reads rows back.
#include <memory>
#include <string>
#include <utility>

#include "daemon/serve/copy_job.h"
#include "daemon/serve/refusals.h"
#include "daemon/serve/session_messages.h"
#include "daemon/serve/session_server.h"
#include "protocol/wire.h"

namespace kvant::daemon {
namespace {

using CopyRowsContext = capnp::CallContext<wire::Session::CopyRowsParams, wire::Status>;

/// A call on its way.
struct CopyCall {
  std::shared_ptr<Session> session;
  CopyRowsContext context;
  /// How often a reader's rows are copied again because the sequence moved on below them.
  int repetitions_left = 5;
};

Result<std::shared_ptr<CopyJob>> MakeJob(const Session& session, wire::Session::CopyRowsParams::Reader params) {
  const std::uint32_t unnamed = params.getUnnamed();
  auto usable = session.WithUnnamed(params.getSequence(), unnamed);
  if (!usable) return usable.error();
  auto request = ReadRowsRequest(session, params);
  if (!request) return request.error();
  const Sequence& sequence = *usable->sequence;
  auto good = quantizers::CheckRowsRequest(sequence.store().spec(), sequence.length() + unnamed, *request);
  if (!good) return good.error();
  return std::make_shared<CopyJob>(session.Arenas(), sequence, unnamed, *request);
}

kj::Promise<void> Answer(CopyCall& call, const Result<void>& outcome) {
  WriteOutcome(*call.session, outcome, call.context.getResults());
  return kj::READY_NOW;
}

kj::Promise<void> Copy(CopyCall call);

kj::Promise<void> Finish(CopyCall call, const CopyJob& job) {
  if (job.cancelled() || job.pinned().Unchanged(call.session->services().core.sequences)) return Answer(call, job.outcome());
  if (call.repetitions_left-- > 0) return Copy(kj::mv(call));
  const std::uint64_t id = call.context.getParams().getSequence();
  return Answer(call, Error{ErrorCode::kUnavailable,
                            "copy rows: sequence " + std::to_string(id) + " changed each time while it was read; ask again"});
}

kj::Promise<void> Copy(CopyCall call) {
  auto job = MakeJob(*call.session, call.context.getParams());
  if (!job) return Answer(call, job.error());
  auto pair = kj::newPromiseAndFulfiller<void>();
  auto fulfiller = std::make_shared<kj::Own<kj::PromiseFulfiller<void>>>(kj::mv(pair.fulfiller));
  call.session->Submit(*job, [fulfiller] { (*fulfiller)->fulfill(); });
  return pair.promise.then([call = kj::mv(call), job = *std::move(job)]() mutable {
    return RunHandler([&] { return Finish(kj::mv(call), *job); });
  });
}

}  // namespace

/// Always beside the loop: even a block of a large model takes longer than a short step, and nobody waits for rows as one waits
/// for a token.
kj::Promise<void> SessionServer::copyRows(CopyRowsContext context) {
  return RunHandler([&] {
    const std::uint64_t id = context.getParams().getSequence();
    return Waits(order_->Run({id}, CallNeeds::kSettled, [session = session_, order = order_, id, context]() mutable {
      return RunHandler([&]() -> kj::Promise<void> {
        CopyCall call{session, context};
        if (session->services().draining) return Answer(call, EndingError("copy rows"));
        return Copy(kj::mv(call)).attach(order->HoldBack({&id, 1}));
      });
    }));
  });
}

}  // namespace kvant::daemon
