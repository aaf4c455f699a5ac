#include "daemon/serve/session_server.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>

#include "daemon/serve/refusals.h"
#include "daemon/serve/session_messages.h"
#include "daemon/serve/slab_server.h"
#include "protocol/wire.h"

namespace kvant::daemon {
namespace {

/// A client's arena as a capability; keeps it alive, and charged, as long as a client holds it.
class ArenaServer final : public wire::Segment::Server {
 public:
  ArenaServer(std::shared_ptr<const Arena> arena, wire::CountedBytes counted)
      : arena_(std::move(arena)), counted_(std::move(counted)) {}
  kj::Maybe<int> getFd() override { return arena_->fd(); }

 private:
  const std::shared_ptr<const Arena> arena_;
  const wire::CountedBytes counted_;
};

Sequence* FindAny(const Session& session, std::uint64_t id) {
  if (auto usable = session.OwnOrRead(id)) return usable->sequence;
  auto elsewhere = session.FindShared(id);  // the source of a fork
  return elsewhere ? *elsewhere : nullptr;
}

/// Answers with the state of a sequence of the session's own, or with the error. `changed`: what a call did to it.
template <typename Results>
void AnswerWithState(Session& session, const Result<UsableSequence>& own, const Result<void>& changed, Results results) {
  if (!changed) {
    WriteRefusal(session, changed.error(), results.initError());
  } else {
    WriteState(*own->sequence, session.TellAllBlocks(own->sequence->id()), results.initOk());
  }
}

}  // namespace

SessionServer::SessionServer(std::shared_ptr<Session> session)
    : session_(std::move(session)),
      order_(std::make_shared<CallOrder>([held = session_](std::uint64_t id) { return FindAny(*held, id); })) {}

SessionServer::~SessionServer() noexcept(false) { session_->Close(); }

// ------------------------------------------------------------------------------------------------------ arenas and stores

kj::Promise<void> SessionServer::ping(PingContext) { return kj::READY_NOW; }

kj::Promise<void> SessionServer::createArena(CreateArenaContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    auto made = session_->CreateArena(context.getParams().getBytes());
    if (!made) {
      WriteRefusal(*session_, made.error(), context.getResults().initError());
      return kj::READY_NOW;
    }
    auto ok = context.getResults().initOk();
    ok.setArena(made->number);
    ok.setBytes(made->arena->bytes());
    ok.setSegment(kj::heap<ArenaServer>(std::move(made->arena), session_->CountCapability()));
    return kj::READY_NOW;
  });
}

kj::Promise<void> SessionServer::openStore(OpenStoreContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    const auto from = context.getParams().getSpec();
    auto spec = wire::ReadStoreSpec(from);
    if (!spec) {
      WriteRefusal(*session_, spec.error(), context.getResults().initError());
      return kj::READY_NOW;
    }
    auto pair = kj::newPromiseAndFulfiller<void>();
    auto fulfiller = std::make_shared<kj::Own<kj::PromiseFulfiller<void>>>(kj::mv(pair.fulfiller));
    auto result = std::make_shared<std::optional<Result<Session::NumberedStore>>>();
    Session::OpenStore(session_, *std::move(spec), ReadRange(from.getArtifact()),
                       [fulfiller, result](Result<Session::NumberedStore> opened) {
                         *result = std::move(opened);
                         (*fulfiller)->fulfill();
                       });
    return Waits(pair.promise.then([session = session_, result, context]() mutable {
      RunHandler([&] {
        if (const auto& opened = **result; !opened) {
          WriteRefusal(*session, opened.error(), context.getResults().initError());
        } else {
          WriteStore(*opened, context.getResults().initOk());
        }
      });
    }));
  });
}

kj::Promise<void> SessionServer::slabs(SlabsContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    auto store = session_->FindStore(context.getParams().getStore());
    if (!store) {
      WriteRefusal(*session_, store.error(), context.getResults().initError());
      return kj::READY_NOW;
    }
    WriteSlabs((*store)->slabs(context.getParams().getFrom()), [this] { return session_->CountCapability(); },
               context.getResults());
    return kj::READY_NOW;
  });
}

// ---------------------------------------------------------------------------------------------------------------- sequences

kj::Promise<void> SessionServer::openSequence(OpenSequenceContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    auto answer = [session = session_, context]() mutable {
      const auto params = context.getParams();
      auto options = ReadOptions(params.getOptions());
      auto sequence = options ? session->Open(params.getStore(), ReadTokens(params.getTokens()), *options)
                              : Result<Sequence*>(options.error());
      if (!sequence) {
        WriteRefusal(*session, sequence.error(), context.getResults().initError());
      } else {
        WriteState(**sequence, session->TellAllBlocks((*sequence)->id()), context.getResults().initOk());
      }
    };
    const std::uint32_t store = context.getParams().getStore();
    if (session_->Checked(store)) {
      answer();
      return kj::READY_NOW;
    }
    auto pair = kj::newPromiseAndFulfiller<void>();
    auto fulfiller = std::make_shared<kj::Own<kj::PromiseFulfiller<void>>>(kj::mv(pair.fulfiller));
    session_->CheckPrefix(
        store, [context]() mutable { return ReadTokens(context.getParams().getTokens()); },
        [fulfiller] { (*fulfiller)->fulfill(); });
    return Waits(pair.promise.then([answer]() mutable { RunHandler([&] { answer(); }); }));
  });
}

kj::Promise<void> SessionServer::fork(ForkContext context) {
  return RunHandler([&] {
    return InOrder(context.getParams().getSource(), CallNeeds::kSettled, [session = session_, context]() mutable {
      const auto params = context.getParams();
      auto options = ReadOptions(params.getOptions());
      auto sequence = options ? session->Fork(params.getStore(), params.getSource(), params.getLength(), *options)
                              : Result<Sequence*>(options.error());
      if (!sequence) {
        WriteRefusal(*session, sequence.error(), context.getResults().initError());
      } else {
        WriteState(**sequence, session->TellAllBlocks((*sequence)->id()), context.getResults().initOk());
      }
    });
  });
}

kj::Promise<void> SessionServer::read(ReadContext context) {
  return RunHandler([&] {
    return InOrder(context.getParams().getSource(), CallNeeds::kOrder, [session = session_, context]() mutable {
      auto reader = session->Read(context.getParams().getStore(), context.getParams().getSource());
      if (!reader) {
        WriteRefusal(*session, reader.error(), context.getResults().initError());
        return;
      }
      auto ok = context.getResults().initOk();
      WriteState(*reader->source, BlockRange{}, ok);
      ok.setSequence(reader->id);
    });
  });
}

kj::Promise<void> SessionServer::close(CloseContext context) {
  return RunHandler([&] {
    const std::uint64_t id = context.getParams().getSequence();
    return Waits(order_->Run({id}, CallNeeds::kOrder, [session = session_, id, context]() mutable {
      auto answer = [session, id, context]() mutable {
        WriteOutcome(*session, session->CloseSequence(id), context.getResults());
      };
      auto own = session->Own(id);
      if (!own) {  // a reader, or nothing of this session's
        answer();
        return kj::Promise<void>(kj::READY_NOW);
      }
      // The client uses the tail's memory again once this is answered: until then blocks may be encoded from it.
      auto pair = kj::newPromiseAndFulfiller<void>();
      auto fulfiller = std::make_shared<kj::Own<kj::PromiseFulfiller<void>>>(kj::mv(pair.fulfiller));
      own->sequence->FinishSealing([fulfiller] { (*fulfiller)->fulfill(); });
      return pair.promise.then([answer]() mutable { RunHandler([&] { answer(); }); });
    }));
  });
}

kj::Promise<void> SessionServer::trim(TrimContext context) {
  return RunHandler([&] {
    return InOrder(context.getParams().getSequence(), CallNeeds::kSettled, [session = session_, context]() mutable {
      auto own = session->Own(context.getParams().getSequence());
      auto trimmed = own ? own->sequence->Trim(context.getParams().getLength()) : Result<void>(own.error());
      AnswerWithState(*session, own, trimmed, context.getResults());
    });
  });
}

kj::Promise<void> SessionServer::mark(MarkContext context) {
  return RunHandler([&] {
    return InOrder(context.getParams().getSequence(), CallNeeds::kSettled, [session = session_, context]() mutable {
      auto own = session->Own(context.getParams().getSequence());
      auto marked = own ? own->sequence->SetMark() : Result<std::uint64_t>(own.error());
      if (!marked) {
        WriteRefusal(*session, marked.error(), context.getResults().initError());
      } else {
        context.getResults().initOk().setLength(*marked);
      }
    });
  });
}

kj::Promise<void> SessionServer::rewind(RewindContext context) {
  return RunHandler([&] {
    return InOrder(context.getParams().getSequence(), CallNeeds::kSettled, [session = session_, context]() mutable {
      auto own = session->Own(context.getParams().getSequence());
      auto rewound = own ? own->sequence->Rewind(context.getParams().getMark().getLength()) : Result<void>(own.error());
      AnswerWithState(*session, own, rewound, context.getResults());
    });
  });
}

}  // namespace kvant::daemon
