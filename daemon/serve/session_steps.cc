// The calls of wire::Session that a decoding step is made of: attend, advance; and release, which advances without tokens.
#include "daemon/serve/session_steps.h"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "daemon/serve/attend_job.h"
#include "daemon/serve/attend_service.h"
#include "daemon/serve/refusals.h"
#include "daemon/serve/session_messages.h"
#include "daemon/serve/session_server.h"
#include "protocol/wire.h"

namespace kvant::daemon {
namespace {

/// What an item asks for, its places checked.
Result<AttendCall> CallOf(const Session& session, wire::AttendItem::Reader item) {
  auto usable = session.WithUnnamed(item.getSequence(), item.getUnnamed());
  if (!usable) return usable.error();
  auto call = ReadAttend(session, item);
  if (call) call->sequence = usable->sequence;
  return call;
}

/// Adds an item to those that run, unless its outcome is clear already.
void AddAttend(Session& session, wire::AttendItem::Reader item, Result<void>& outcome, AttendBatch& batch) {
  auto call = CallOf(session, item);
  if (!call) {
    outcome = call.error();
    return;
  }
  call->outcome = &outcome;
  batch.calls.push_back(*call);
  ++session.services().counters.attend_calls;
}

AttendBatch& ReadBatch(Session& session, capnp::List<wire::AttendItem>::Reader items) {
  AttendBatch& batch = session.services().attend.Begin(items.size());
  for (unsigned i = 0; i < items.size(); ++i) AddAttend(session, items[i], batch.outcomes[i], batch);
  return batch;
}

template <typename Context>
void WriteOutcomes(Session& session, std::span<const Result<void>> outcomes, Context context) {
  // Room for successes; Cap'n Proto would clear 8 KiB. Errors get a segment of their own.
  constexpr std::uint64_t kWordsOfSuccess = 2;
  const capnp::MessageSize hint{4 + kWordsOfSuccess * outcomes.size(), 0};
  auto list = context.getResults(hint).initOutcomes(static_cast<unsigned>(outcomes.size()));
  for (unsigned i = 0; i < list.size(); ++i) WriteOutcome(session, outcomes[i], list[i]);
}

using AttendContext = capnp::CallContext<wire::Session::AttendParams, wire::Session::AttendResults>;

/// A long call on its way.
struct LongAttend {
  std::shared_ptr<Session> session;
  AttendContext context;
  std::vector<Result<void>> outcomes;
  /// How often a reader's item is computed again because the sequence moved on below it.
  int repetitions_left = 5;
};

kj::Promise<void> Compute(LongAttend call, std::shared_ptr<AttendJob> job);

/// Takes the job's outcomes and answers, or computes again what read rows that may have been written meanwhile.
kj::Promise<void> FinishLong(LongAttend call, const AttendJob& job) {
  Session& session = *call.session;
  std::shared_ptr<AttendJob> again;
  for (const AttendJob::Item& item : job.items()) {
    Result<void>& outcome = call.outcomes[item.index];
    outcome = item.outcome;
    if (job.cancelled() || item.pinned.Unchanged(session.services().core.sequences)) continue;
    if (call.repetitions_left == 0) {
      outcome = Error{ErrorCode::kUnavailable,
                      "attend: sequence " + std::to_string(item.sequence) + " changed each time while it was read; ask again"};
      continue;
    }
    if (again == nullptr) again = std::make_shared<AttendJob>(session.Arenas());
    auto next = CallOf(session, call.context.getParams().getItems()[static_cast<unsigned>(item.index)]);
    outcome = next ? again->Add(item.index, item.sequence, *next) : Result<void>(next.error());
  }
  if (again == nullptr) {
    WriteOutcomes(session, call.outcomes, call.context);
    return kj::READY_NOW;
  }
  --call.repetitions_left;
  return Compute(kj::mv(call), kj::mv(again));
}

kj::Promise<void> Compute(LongAttend call, std::shared_ptr<AttendJob> job) {
  auto pair = kj::newPromiseAndFulfiller<void>();
  auto fulfiller = std::make_shared<kj::Own<kj::PromiseFulfiller<void>>>(kj::mv(pair.fulfiller));
  call.session->Submit(job, [fulfiller] { (*fulfiller)->fulfill(); });
  return pair.promise.then([call = kj::mv(call), job = kj::mv(job)]() mutable {
    return RunHandler([&] { return FinishLong(kj::mv(call), *job); });
  });
}

/// Answers in this turn if that takes some milliseconds at most; else the call goes on beside the loop, and `order` holds back
/// what comes behind it.
kj::Promise<void> RunAttend(const std::shared_ptr<Session>& session, CallOrder& order, AttendContext context) {
  Services& services = session->services();
  const auto items = context.getParams().getItems();
  AttendBatch& batch = ReadBatch(*session, items);
  if (!AttendService::Long(batch.calls)) {
    services.attend.Run(batch.calls);
    WriteOutcomes(*session, batch.outcomes, context);
    return kj::READY_NOW;
  }
  if (services.draining) {
    for (const AttendCall& each : batch.calls) *each.outcome = EndingError("attend");
    WriteOutcomes(*session, batch.outcomes, context);
    return kj::READY_NOW;
  }
  LongAttend call{session, context, batch.outcomes};
  auto job = std::make_shared<AttendJob>(session->Arenas());
  std::vector<std::uint64_t> ids;
  for (const AttendCall& each : batch.calls) {
    const auto index = static_cast<std::size_t>(each.outcome - batch.outcomes.data());
    ids.push_back(items[static_cast<unsigned>(index)].getSequence());
    call.outcomes[index] = job->Add(index, ids.back(), each);
  }
  return services.waiting_calls.Count(Compute(kj::mv(call), kj::mv(job)).attach(order.HoldBack(ids)));
}

/// What an advance or a release came to. The sequence may have been closed while it waited.
void AnswerAdvance(Session& session, std::uint64_t id, const Result<Advanced>& result, wire::Advanced::Builder to) {
  auto own = session.Own(id);
  if (!own) {
    WriteAdvanced(session, nullptr, result ? Result<Advanced>(own.error()) : result, {}, to);
  } else {
    WriteAdvanced(session, own->sequence, result, result ? session.TellNewBlocks(id) : BlockRange{}, to);
    const Store& store = own->sequence->store();
    if (store.key_means().unfit_heads() > 0 && session.TellWarning(store)) to.setWarning(TextOf(store.key_means().Warning()));
  }
}

/// Answers of one advance's items as they come in; shared by the callbacks and the continuation.
struct AdvanceAnswers {
  std::vector<std::optional<Result<Advanced>>> of_item;
  std::size_t missing = 0;
  kj::Own<kj::PromiseFulfiller<void>> all_here;  // set while the call waits

  void Put(std::size_t item, Result<Advanced> answer) {
    of_item[item] = std::move(answer);
    if (--missing == 0 && all_here.get() != nullptr) all_here->fulfill();
  }
};

using AdvanceContext = capnp::CallContext<wire::Session::AdvanceParams, wire::Session::AdvanceResults>;

void WriteAnswers(Session& session, const AdvanceAnswers& answers, AdvanceContext context) {
  const auto items = context.getParams().getItems();
  auto outcomes = context.getResults().initOutcomes(items.size());
  for (unsigned i = 0; i < items.size(); ++i) AnswerAdvance(session, items[i].getSequence(), *answers.of_item[i], outcomes[i]);
}

kj::Promise<void> RunAdvance(const std::shared_ptr<Session>& session, AdvanceContext context) {
  const auto items = context.getParams().getItems();
  auto answers = std::make_shared<AdvanceAnswers>();
  answers->of_item.resize(items.size());
  answers->missing = items.size();
  for (unsigned i = 0; i < items.size(); ++i) {
    auto own = session->Own(items[i].getSequence());
    if (!own) {
      answers->Put(i, own.error());
      continue;
    }
    if (items[i].getKeptTokens() != 0) own->sequence->NoteKept(items[i].getKeptTokens());
    const SealWait wait = items[i].getWaitSealed() ? SealWait::kDue : SealWait::kSwitched;
    own->sequence->Advance(ReadTokens(items[i].getTokens()), wait,
                           [answers, i](Result<Advanced> answer) { answers->Put(i, std::move(answer)); });
  }
  if (answers->missing == 0) {
    WriteAnswers(*session, *answers, context);
    return kj::READY_NOW;
  }
  auto pair = kj::newPromiseAndFulfiller<void>();
  answers->all_here = kj::mv(pair.fulfiller);
  return session->services().waiting_calls.Count(pair.promise.then(
      [session, answers, context]() mutable { RunHandler([&] { WriteAnswers(*session, *answers, context); }); }));
}

using ReleaseContext = capnp::CallContext<wire::Session::ReleaseParams, wire::Advanced>;

kj::Promise<void> RunRelease(const std::shared_ptr<Session>& session, ReleaseContext context) {
  const std::uint64_t id = context.getParams().getSequence();
  auto own = session->Own(id);
  if (!own) {
    WriteAdvanced(*session, nullptr, own.error(), {}, context.getResults());
    return kj::READY_NOW;
  }
  auto pair = kj::newPromiseAndFulfiller<void>();
  // The callback may come from inside Release; the answer is written in the next turn either way.
  auto fulfiller = std::make_shared<kj::Own<kj::PromiseFulfiller<void>>>(kj::mv(pair.fulfiller));
  auto result = std::make_shared<std::optional<Result<Advanced>>>();
  own->sequence->Release(context.getParams().getMark().getLength(), [fulfiller, result](Result<Advanced> answer) {
    *result = std::move(answer);
    (*fulfiller)->fulfill();
  });
  return pair.promise.then([session, id, result, context]() mutable {
    RunHandler([&] { AnswerAdvance(*session, id, **result, context.getResults()); });
  });
}

}  // namespace

std::span<const Result<void>> AttendItems(Session& session, capnp::List<wire::AttendItem>::Reader items) {
  AttendBatch& batch = ReadBatch(session, items);
  session.services().attend.Run(batch.calls);
  return batch.outcomes;
}

template <typename Items>
std::span<const std::uint64_t> SessionServer::IdsOf(Items items) {
  KJ_REQUIRE(items.size() <= wire::MAX_BATCH, "too many items in one call", items.size(), +wire::MAX_BATCH);
  ids_.clear();
  for (auto item : items) ids_.push_back(item.getSequence());
  return ids_;
}

kj::Promise<void> SessionServer::attend(AttendContext context) {
  return RunHandler([&] {
    const auto ids = IdsOf(context.getParams().getItems());
    if (order_->Free(ids, CallNeeds::kSettled)) return RunAttend(session_, *order_, context);
    return Waits(
        order_->Run({ids.begin(), ids.end()}, CallNeeds::kSettled, [session = session_, order = order_, context]() mutable {
          return RunHandler([&] { return RunAttend(session, *order, context); });
        }));
  });
}

kj::Promise<void> SessionServer::advance(AdvanceContext context) {
  return RunHandler([&] {
    const auto ids = IdsOf(context.getParams().getItems());
    // Advances follow each other without waiting for the one before to be answered: the sequence keeps them apart.
    if (order_->Free(ids, CallNeeds::kOrder)) return RunAdvance(session_, context);
    return Waits(order_->Run({ids.begin(), ids.end()}, CallNeeds::kOrder, [session = session_, context]() mutable {
      return RunHandler([&] { return RunAdvance(session, context); });
    }));
  });
}

kj::Promise<void> SessionServer::release(ReleaseContext context) {
  return RunHandler([&] {
    return Waits(order_->Run({context.getParams().getSequence()}, CallNeeds::kOrder, [session = session_, context]() mutable {
      return RunHandler([&] { return RunRelease(session, context); });
    }));
  });
}

}  // namespace kvant::daemon
