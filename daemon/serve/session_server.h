// wire::Session: translates messages to Session's calls and their outcomes back. In three files: session_server.cc has the
// store and its memory, session_server_sequences.cc and session_server_steps.cc the calls on sequences.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <kvant/kvant.capnp.h>

#include "daemon/serve/call_order.h"
#include "daemon/serve/rpc_guard.h"
#include "daemon/serve/session.h"

namespace kvant::daemon {

/// A client's arena as a capability; keeps it alive, and charged, as long as a client holds it.
class ArenaServer final : public wire::Segment::Server {
 public:
  explicit ArenaServer(std::shared_ptr<const Arena> arena) : arena_(std::move(arena)) {}
  kj::Promise<void> size(SizeContext context) override;
  kj::Maybe<int> getFd() override { return arena_->fd(); }

 private:
  const std::shared_ptr<const Arena> arena_;
};

/// A slab as a capability. A slab whose store has given it back has no descriptor any more.
class SlabServer final : public wire::Segment::Server {
 public:
  explicit SlabServer(std::shared_ptr<Slab> slab) : slab_(std::move(slab)) { slab_->NoteShared(); }
  kj::Promise<void> size(SizeContext context) override;
  kj::Maybe<int> getFd() override {
    if (slab_->read_only_fd() < 0) return nullptr;
    return slab_->read_only_fd();
  }

 private:
  const std::shared_ptr<Slab> slab_;
};

/// One per connection. Calls that have to wait for encodings hold the session, not the connection; a connection that ends
/// closes the session first. Loop thread.
class SessionServer final : public wire::Session::Server {
 public:
  explicit SessionServer(std::shared_ptr<Session> session);
  /// The client has dropped its session: without it nothing of it can be used.
  ~SessionServer() noexcept(false);

  kj::Promise<void> ping(PingContext context) override;
  kj::Promise<void> createArena(CreateArenaContext context) override;
  kj::Promise<void> openStore(OpenStoreContext context) override;
  kj::Promise<void> slabs(SlabsContext context) override;
  kj::Promise<void> openSequence(OpenSequenceContext context) override;
  kj::Promise<void> fork(ForkContext context) override;
  kj::Promise<void> read(ReadContext context) override;
  kj::Promise<void> close(CloseContext context) override;
  kj::Promise<void> append(AppendContext context) override;
  kj::Promise<void> attend(AttendContext context) override;
  kj::Promise<void> step(StepContext context) override;
  kj::Promise<void> advance(AdvanceContext context) override;
  kj::Promise<void> trim(TrimContext context) override;
  kj::Promise<void> mark(MarkContext context) override;
  kj::Promise<void> rewind(RewindContext context) override;
  kj::Promise<void> release(ReleaseContext context) override;
  kj::Promise<void> blocks(BlocksContext context) override;
  kj::Promise<void> stats(StatsContext context) override;

 private:
  /// Runs `body` (nothing -> nothing) when the call on sequences `ids` may begin.
  template <typename Body>
  kj::Promise<void> InOrder(std::span<const std::uint64_t> ids, CallNeeds needs, Body body) {
    if (order_->Free(ids, needs)) {
      Guarded(body);
      return kj::READY_NOW;
    }
    return order_->Run({ids.begin(), ids.end()}, needs, [body = kj::mv(body)]() mutable -> kj::Promise<void> {
      Guarded(body);
      return kj::READY_NOW;
    });
  }
  template <typename Body>
  kj::Promise<void> InOrder(std::uint64_t id, CallNeeds needs, Body body) {
    return InOrder(std::span(&id, 1), needs, kj::mv(body));
  }
  /// The sequences that a batch names; valid until the next call. Refuses batches that are too large.
  template <typename Items, typename IdOf>
  std::span<const std::uint64_t> IdsOf(Items items, IdOf id_of);

  const std::shared_ptr<Session> session_;  // shared with calls that wait
  const std::shared_ptr<CallOrder> order_;
  std::vector<std::uint64_t> ids_;  // kept for its capacity
};

}  // namespace kvant::daemon
