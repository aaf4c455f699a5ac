// The calls of wire::Session that a decoding step is made of.
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "daemon/serve/rpc_guard.h"
#include "daemon/serve/session_messages.h"
#include "daemon/serve/session_server.h"
#include "daemon/serve/step_items.h"
#include "protocol/wire.h"

namespace kvant::daemon {
namespace {

void CheckBatch(std::size_t items) {
  KJ_REQUIRE(items <= wire::MAX_BATCH, "too many items in one call", items, +wire::MAX_BATCH);
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
  for (unsigned i = 0; i < items.size(); ++i) WriteAdvanced(session, items[i].getSequence(), *answers.of_item[i], outcomes[i]);
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
    const std::uint64_t before = own->sequence->length();
    own->sequence->Advance(ReadTokens(items[i].getTokens()), wait,
                           [answers, i](Result<Advanced> answer) { answers->Put(i, std::move(answer)); });
    session->CountAdvanced(own->sequence->length() - before);
  }
  if (answers->missing == 0) {
    WriteAnswers(*session, *answers, context);
    return kj::READY_NOW;
  }
  auto pair = kj::newPromiseAndFulfiller<void>();
  answers->all_here = kj::mv(pair.fulfiller);
  return pair.promise.then(
      [session, answers, context]() mutable { Guarded([&] { WriteAnswers(*session, *answers, context); }); });
}

using ReleaseContext = capnp::CallContext<wire::Session::ReleaseParams, wire::Advanced>;

kj::Promise<void> RunRelease(const std::shared_ptr<Session>& session, ReleaseContext context) {
  const std::uint64_t id = context.getParams().getSequence();
  auto own = session->Own(id);
  if (!own) {
    WriteAdvanced(*session, id, own.error(), context.getResults());
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
    Guarded([&] { WriteAdvanced(*session, id, **result, context.getResults()); });
  });
}

template <typename Context>
void WriteOutcomes(std::span<const Result<void>> outcomes, Context context) {
  // Room for successes; Cap'n Proto would clear 8 KiB. Errors get a segment of their own.
  constexpr std::uint64_t kWordsOfSuccess = 2;
  const capnp::MessageSize hint{4 + kWordsOfSuccess * outcomes.size(), 0};
  auto list = context.getResults(hint).initOutcomes(static_cast<unsigned>(outcomes.size()));
  for (unsigned i = 0; i < list.size(); ++i) wire::WriteStatus(outcomes[i], list[i]);
}

}  // namespace

template <typename Items, typename IdOf>
std::span<const std::uint64_t> SessionServer::IdsOf(Items items, IdOf id_of) {
  CheckBatch(items.size());
  ids_.clear();
  for (auto item : items) ids_.push_back(id_of(item));
  return ids_;
}

kj::Promise<void> SessionServer::append(AppendContext context) {
  return Guarded([&] {
    const auto ids = IdsOf(context.getParams().getItems(), [](wire::AppendItem::Reader item) { return item.getSequence(); });
    return InOrder(ids, CallNeeds::kSettled, [session = session_, context]() mutable {
      const auto items = context.getParams().getItems();
      std::vector<Result<void>> outcomes(items.size());
      for (unsigned i = 0; i < items.size(); ++i) outcomes[i] = AppendItem(*session, items[i]);
      WriteOutcomes(outcomes, context);
    });
  });
}

kj::Promise<void> SessionServer::attend(AttendContext context) {
  return Guarded([&] {
    const auto ids = IdsOf(context.getParams().getItems(), [](wire::AttendItem::Reader item) { return item.getSequence(); });
    return InOrder(ids, CallNeeds::kSettled, [session = session_, context]() mutable {
      WriteOutcomes(AttendItems(*session, context.getParams().getItems()), context);
    });
  });
}

kj::Promise<void> SessionServer::step(StepContext context) {
  return Guarded([&] {
    const auto ids =
        IdsOf(context.getParams().getItems(), [](wire::StepItem::Reader item) { return item.getAttend().getSequence(); });
    return InOrder(ids, CallNeeds::kSettled, [session = session_, context]() mutable {
      WriteOutcomes(StepItems(*session, context.getParams().getItems()), context);
    });
  });
}

kj::Promise<void> SessionServer::advance(AdvanceContext context) {
  return Guarded([&] {
    const auto ids = IdsOf(context.getParams().getItems(), [](wire::AdvanceItem::Reader item) { return item.getSequence(); });
    // Advances follow each other without waiting for the one before to be answered: the sequence keeps them apart.
    if (order_->Free(ids, CallNeeds::kOrder)) return RunAdvance(session_, context);
    return order_->Run({ids.begin(), ids.end()}, CallNeeds::kOrder, [session = session_, context]() mutable {
      return Guarded([&] { return RunAdvance(session, context); });
    });
  });
}

kj::Promise<void> SessionServer::release(ReleaseContext context) {
  return Guarded([&] {
    return order_->Run({context.getParams().getSequence()}, CallNeeds::kOrder, [session = session_, context]() mutable {
      return Guarded([&] { return RunRelease(session, context); });
    });
  });
}

}  // namespace kvant::daemon
