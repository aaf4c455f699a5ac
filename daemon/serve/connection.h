// One connection: the stream, Cap'n Proto over it, the bootstrap capability, and the end of it all.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include <capnp/rpc-twoparty.h>
#include <kj/io.h>
#include <sys/types.h>

#include <kvant/kvant.capnp.h>

#include "daemon/serve/admin_server.h"
#include "daemon/serve/client_record.h"
#include "daemon/serve/peer_calls.h"
#include "daemon/serve/session.h"
#include "protocol/message_memory.h"
#include "protocol/message_socket.h"

namespace kvant::daemon {

/// Tells those who watch that something befell a client.
void TellOfClient(Services& services, std::string_view kind, const ClientRecord& client);

/// SO_PEERCRED of a unix stream socket. A peer that cannot be identified has a uid nobody has.
Peer PeerOf(int socket) noexcept;

/// True for the daemon's own uid and root.
bool MayAdminister(const Peer& peer) noexcept;

/// The bootstrap capability of one connection.
class BootstrapServer final : public wire::Daemon::Server {
 public:
  BootstrapServer(Services& services, const DaemonFacts& facts, std::shared_ptr<ClientRecord> record,
                  std::shared_ptr<wire::MessageMemory::Account> messages)
      : services_(services),
        facts_(facts),
        record_(std::move(record)),
        arenas_(std::make_shared<ArenaAllowance>(services.arena_limit_bytes)),
        messages_(std::move(messages)) {}

  kj::Promise<void> hello(HelloContext context) override;
  kj::Promise<void> admin(AdminContext context) override;

  /// The connection has ended: calls that wait may keep the session's object, but it holds nothing any more.
  void CloseSession();
  [[nodiscard]] std::shared_ptr<Session> session() const { return session_.lock(); }

 private:
  Services& services_;
  const DaemonFacts facts_;
  const std::shared_ptr<ClientRecord> record_;
  const std::shared_ptr<ArenaAllowance> arenas_;  // of all sessions of this connection; shared with the arenas
  const std::shared_ptr<wire::MessageMemory::Account> messages_;
  std::weak_ptr<Session> session_;  // owned by the capability that hello answered; one at a time
};

/// Owned by the daemon's loop; destroying it closes the socket and the session.
class Connection {
 public:
  /// `number`: not given to another connection of this daemon.
  Connection(wire::EventLoop& loop, kj::AutoCloseFd socket, Services& services, const DaemonFacts& facts, std::uint64_t number,
             const Peer& peer);
  ~Connection() noexcept(false);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// Resolves when the peer is gone.
  [[nodiscard]] kj::Promise<void> WhenEnded() { return network_.onDisconnect(); }

  /// True if the session has an arena and none of its heartbeats has moved for `lease`. Call it a few times per lease, with the
  /// time since the last call that is to count.
  [[nodiscard]] bool Hung(std::chrono::nanoseconds since_last, std::chrono::nanoseconds lease);

  [[nodiscard]] const ClientRecord& record() const noexcept { return *record_; }
  [[nodiscard]] const Peer& peer() const noexcept { return record_->peer; }

 private:
  using Account = std::shared_ptr<wire::MessageMemory::Account>;
  using Record = std::shared_ptr<ClientRecord>;
  Connection(wire::EventLoop& loop, kj::AutoCloseFd socket, Services& services, const DaemonFacts& facts, const Record& record,
             const Account& messages);
  Connection(wire::EventLoop& loop, kj::AutoCloseFd socket, Services& services, kj::Own<BootstrapServer> bootstrap,
             const Record& record, const Account& messages);

  Services& services_;
  const Record record_;
  PeerCalls calls_;
  BootstrapServer& bootstrap_;  // kept by bootstrap_client_
  wire::Daemon::Client bootstrap_client_;
  wire::MessageSocket socket_;
  capnp::TwoPartyVatNetwork network_;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> rpc_;

  std::vector<std::uint64_t> heartbeats_;
};

}  // namespace kvant::daemon
