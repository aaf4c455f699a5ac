#include "daemon/serve/session_server.h"

#include <algorithm>
#include <utility>

#include "daemon/serve/rpc_guard.h"
#include "daemon/serve/session_messages.h"
#include "protocol/wire.h"

namespace kvant::daemon {
namespace {

Sequence* FindAny(const Session& session, std::uint64_t id) {
  if (auto view = session.View(id)) return view->sequence;
  auto elsewhere = session.services().core.sequences.Find(id);  // the source of a fork
  return elsewhere ? *elsewhere : nullptr;
}

}  // namespace

kj::Promise<void> ArenaServer::size(SizeContext context) {
  context.getResults().setBytes(arena_->bytes());
  return kj::READY_NOW;
}

kj::Promise<void> SlabServer::size(SizeContext context) {
  context.getResults().setBytes(slab_->bytes());
  return kj::READY_NOW;
}

SessionServer::SessionServer(std::shared_ptr<Session> session)
    : session_(std::move(session)),
      order_(std::make_shared<CallOrder>([held = session_](std::uint64_t id) { return FindAny(*held, id); })) {}

SessionServer::~SessionServer() noexcept(false) { session_->Close(); }

kj::Promise<void> SessionServer::ping(PingContext) { return kj::READY_NOW; }

kj::Promise<void> SessionServer::createArena(CreateArenaContext context) {
  return Guarded([&]() -> kj::Promise<void> {
    auto made = session_->CreateArena(context.getParams().getBytes());
    if (!made) {
      wire::WriteError(made.error(), context.getResults().initError());
      return kj::READY_NOW;
    }
    auto ok = context.getResults().initOk();
    ok.setArena(made->number);
    ok.setBytes(made->arena->bytes());
    ok.setSegment(kj::heap<ArenaServer>(std::move(made->arena)));
    return kj::READY_NOW;
  });
}

kj::Promise<void> SessionServer::openStore(OpenStoreContext context) {
  return Guarded([&]() -> kj::Promise<void> {
    const auto from = context.getParams().getSpec();
    auto spec = wire::ReadStoreSpec(from);
    auto held =
        spec ? session_->OpenStore(*std::move(spec), ReadRange(from.getArtifact())) : Result<Session::HeldStore>(spec.error());
    if (!held) {
      wire::WriteError(held.error(), context.getResults().initError());
    } else {
      WriteStore(*held, context.getResults().initOk());
    }
    return kj::READY_NOW;
  });
}

kj::Promise<void> SessionServer::slabs(SlabsContext context) {
  return Guarded([&]() -> kj::Promise<void> {
    auto store = session_->FindStore(context.getParams().getStore());
    if (!store) {
      wire::WriteError(store.error(), context.getResults().initError());
      return kj::READY_NOW;
    }
    const auto slabs = (*store)->slabs(context.getParams().getFrom());
    const auto count = static_cast<unsigned>(std::min<std::size_t>(slabs.size(), wire::kMaxFdsPerMessage));
    auto list = context.getResults().initOk(count);
    for (unsigned i = 0; i < count; ++i) {
      list[i].setIndex(slabs[i]->header().slab_index);
      list[i].setBytes(slabs[i]->bytes());
      list[i].setSegment(kj::heap<SlabServer>(slabs[i]));
    }
    return kj::READY_NOW;
  });
}

kj::Promise<void> SessionServer::stats(StatsContext context) {
  auto stats = context.getResults().initStats();
  stats.setBytesCopied(session_->bytes_copied());
  stats.setAttendCalls(session_->attend_calls());
  stats.setTokensAdvanced(session_->tokens_advanced());
  stats.setArenaBytes(session_->arena_bytes());
  stats.setSequences(session_->sequences());
  return kj::READY_NOW;
}

}  // namespace kvant::daemon
