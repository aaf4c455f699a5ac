// The calls of wire::Session that a decoding step is made of: attend, advance; and release, which advances without tokens.
#include "daemon/serve/session_steps.h"

#include <optional>
#include <utility>
#include <vector>

#include "daemon/serve/attend_service.h"
#include "daemon/serve/session_messages.h"
#include "daemon/serve/session_server.h"
#include "protocol/wire.h"

namespace kvant::daemon {
namespace {

/// Adds an item to those that run, unless its outcome is clear already.
void AddAttend(Session& session, wire::AttendItem::Reader item, Result<void>& outcome, AttendBatch& batch) {
  auto usable = session.OwnOrRead(item.getSequence());
  if (!usable) {
    outcome = usable.error();
    return;
  }
  auto call = ReadAttend(session, item);
  if (!call) {
    outcome = call.error();
    return;
  }
  call->sequence = usable->sequence;
  call->outcome = &outcome;
  batch.calls.push_back(*call);
  ++session.services().counters.attend_calls;
}

template <typename Context>
void WriteOutcomes(std::span<const Result<void>> outcomes, Context context) {
  // Room for successes; Cap'n Proto would clear 8 KiB. Errors get a segment of their own.
  constexpr std::uint64_t kWordsOfSuccess = 2;
  const capnp::MessageSize hint{4 + kWordsOfSuccess * outcomes.size(), 0};
  auto list = context.getResults(hint).initOutcomes(static_cast<unsigned>(outcomes.size()));
  for (unsigned i = 0; i < list.size(); ++i) wire::WriteStatus(outcomes[i], list[i]);
}

/// What an advance or a release came to. The sequence may have been closed while it waited.
void AnswerAdvance(Session& session, std::uint64_t id, const Result<Advanced>& result, wire::Advanced::Builder to) {
  auto own = session.Own(id);
  if (!own) {
    WriteAdvanced(nullptr, result ? Result<Advanced>(own.error()) : result, {}, to);
  } else {
    WriteAdvanced(own->sequence, result, result ? session.TellNewBlocks(id) : BlockRange{}, to);
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
    WriteAdvanced(nullptr, own.error(), {}, context.getResults());
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
  AttendService& service = session.services().attend;
  AttendBatch& batch = service.Begin(items.size());
  for (unsigned i = 0; i < items.size(); ++i) AddAttend(session, items[i], batch.outcomes[i], batch);
  service.Run(batch.calls);
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
    return InOrder(IdsOf(context.getParams().getItems()), CallNeeds::kSettled, [session = session_, context]() mutable {
      WriteOutcomes(AttendItems(*session, context.getParams().getItems()), context);
    });
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
