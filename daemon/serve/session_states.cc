// The calls of wire::Session on engines' states.
#include <memory>
#include <utility>

#include "daemon/serve/refusals.h"
#include "daemon/serve/session_messages.h"
#include "daemon/serve/session_server.h"
#include "daemon/serve/state_job.h"
#include "protocol/wire.h"

namespace kvant::daemon {
namespace {

using PutStateContext = capnp::CallContext<wire::Session::PutStateParams, wire::Status>;

kj::Promise<void> Answer(Session& session, PutStateContext& context, const Result<void>& outcome) {
  WriteOutcome(session, outcome, context.getResults());
  return kj::READY_NOW;
}

/// Null if a state is there already.
Result<std::shared_ptr<StateJob>> MakeJob(const Session& session, wire::Session::PutStateParams::Reader params) {
  auto own = session.Own(params.getSequence());
  if (!own) return own.error();
  const RangePlace range = ReadRange(params.getState());
  auto arena = session.FindArena(range.arena);
  if (!arena) return Error{arena.error().code, "put state: " + arena.error().message};
  auto from = (*arena)->CheckRange("put state", range.offset, range.bytes, 1);
  if (!from) return from.error();
  auto state = own->sequence->ReserveState(range.bytes);
  if (!state) return state.error();
  if (state->slot == nullptr) return std::shared_ptr<StateJob>();
  return std::make_shared<StateJob>(session.Arenas(), own->sequence->store().shared_from_this(), *std::move(state), *from);
}

kj::Promise<void> Put(const std::shared_ptr<Session>& session, PutStateContext context) {
  if (session->services().draining) return Answer(*session, context, EndingError("put state"));
  auto job = MakeJob(*session, context.getParams());
  if (!job) return Answer(*session, context, job.error());
  if (*job == nullptr) return Answer(*session, context, {});
  auto pair = kj::newPromiseAndFulfiller<void>();
  auto fulfiller = std::make_shared<kj::Own<kj::PromiseFulfiller<void>>>(kj::mv(pair.fulfiller));
  session->Submit(*job, [fulfiller] { (*fulfiller)->fulfill(); });
  return pair.promise.then([session, context, job = *std::move(job)]() mutable {
    return RunHandler([&] {
      Result<void> outcome = job->outcome();
      if (outcome) {
        auto own = session->Own(context.getParams().getSequence());  // it may have ended with its session
        if (own) {
          own->sequence->KeepState(job->state().block, job->state().slot);
        } else {
          outcome = own.error();
        }
      }
      return Answer(*session, context, outcome);
    });
  });
}

}  // namespace

kj::Promise<void> SessionServer::putState(PutStateContext context) {
  return RunHandler([&] {
    const std::uint64_t id = context.getParams().getSequence();
    return Waits(order_->Run({id}, CallNeeds::kSettled, [session = session_, order = order_, id, context]() mutable {
      return RunHandler([&] { return Put(session, context).attach(order->HoldBack({&id, 1})); });
    }));
  });
}

kj::Promise<void> SessionServer::getState(GetStateContext context) {
  return RunHandler([&] {
    return InOrder(context.getParams().getSequence(), CallNeeds::kSettled, [session = session_, context]() mutable {
      const std::uint64_t id = context.getParams().getSequence();
      auto own = session->Own(id);
      if (!own) {
        WriteRefusal(*session, own.error(), context.getResults().initError());
        return;
      }
      const auto newest = own->sequence->NewestState();
      if (!newest) {
        const Error none{ErrorCode::kNotFound, "sequence " + std::to_string(id) + " holds no state"};
        WriteRefusal(*session, none, context.getResults().initError());
        return;
      }
      auto ok = context.getResults().initOk();
      ok.setLength(newest->length);
      ok.setBytes(newest->slot->bytes());
      auto place = ok.initPlace();
      place.setSlab(newest->slot->slot().slab);
      place.setSlot(newest->slot->slot().slot);
      place.setGeneration(newest->slot->generation());
    });
  });
}

}  // namespace kvant::daemon
