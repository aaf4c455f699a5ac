// wire::Session: translates messages to Session's calls and their outcomes back. session_server.cc has the calls on arenas,
// stores and sequences, session_steps.cc those that a decoding step is made of, session_states.cc those on states,
// session_rows.cc the one that reads rows back, session_snapshots.cc those that copy whole blocks.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <kvant/kvant.capnp.h>

#include "daemon/serve/call_order.h"
#include "daemon/serve/rpc_handler.h"
#include "daemon/serve/session.h"

namespace kvant::daemon {

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
  kj::Promise<void> attend(AttendContext context) override;
  kj::Promise<void> advance(AdvanceContext context) override;
  kj::Promise<void> trim(TrimContext context) override;
  kj::Promise<void> mark(MarkContext context) override;
  kj::Promise<void> rewind(RewindContext context) override;
  kj::Promise<void> release(ReleaseContext context) override;
  kj::Promise<void> copyRows(CopyRowsContext context) override;
  kj::Promise<void> putState(PutStateContext context) override;
  kj::Promise<void> getState(GetStateContext context) override;
  kj::Promise<void> snapshot(SnapshotContext context) override;
  kj::Promise<void> restore(RestoreContext context) override;

 private:
  /// Runs `body` (nothing -> nothing) when the call on sequences `ids` may begin.
  template <typename Body>
  kj::Promise<void> InOrder(std::span<const std::uint64_t> ids, CallNeeds needs, Body body) {
    if (order_->Free(ids, needs)) {
      RunHandler(body);
      return kj::READY_NOW;
    }
    return Waits(order_->Run({ids.begin(), ids.end()}, needs, [body = kj::mv(body)]() mutable -> kj::Promise<void> {
      RunHandler(body);
      return kj::READY_NOW;
    }));
  }
  template <typename Body>
  kj::Promise<void> InOrder(std::uint64_t id, CallNeeds needs, Body body) {
    return InOrder(std::span(&id, 1), needs, kj::mv(body));
  }
  /// A call that may not be answered in this turn.
  kj::Promise<void> Waits(kj::Promise<void> call) { return session_->services().waiting_calls.Count(kj::mv(call)); }
  /// The sequences that a batch names; valid until the next call. Refuses batches that are too large.
  template <typename Items>
  std::span<const std::uint64_t> IdsOf(Items items);

  const std::shared_ptr<Session> session_;  // shared with calls that wait
  const std::shared_ptr<CallOrder> order_;
  std::vector<std::uint64_t> ids_;  // kept for its capacity
};

}  // namespace kvant::daemon
