// One connection: the stream, Cap'n Proto over it, the bootstrap capability, and the end of it all.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <vector>

#include <capnp/rpc-twoparty.h>
#include <kj/io.h>
#include <sys/types.h>

#include <kvant/kvant.capnp.h>

#include "daemon/serve/admin_server.h"
#include "daemon/serve/peer_calls.h"
#include "daemon/serve/session.h"
#include "protocol/message_memory.h"
#include "protocol/message_socket.h"

namespace kvant::daemon {

/// Who is at the other end, by the kernel's word at the time it connected.
struct Peer {
  pid_t pid = 0;
  uid_t uid = static_cast<uid_t>(-1);
};

/// SO_PEERCRED of a unix stream socket. A peer that cannot be identified has a uid nobody has.
Peer PeerOf(int socket) noexcept;

/// True for the daemon's own uid and root.
bool MayAdminister(const Peer& peer) noexcept;

/// The bootstrap capability of one connection.
class BootstrapServer final : public wire::Daemon::Server {
 public:
  BootstrapServer(Services& services, const DaemonFacts& facts, const Peer& peer,
                  std::shared_ptr<wire::MessageMemory::Account> messages)
      : services_(services),
        facts_(facts),
        peer_(peer),
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
  const Peer peer_;
  const std::shared_ptr<ArenaAllowance> arenas_;  // of all sessions of this connection; shared with the arenas
  const std::shared_ptr<wire::MessageMemory::Account> messages_;
  std::weak_ptr<Session> session_;  // owned by the capability that hello answered; one at a time
};

/// Owned by the daemon's loop; destroying it closes the socket and the session.
class Connection {
 public:
  Connection(wire::EventLoop& loop, kj::AutoCloseFd socket, Services& services, const DaemonFacts& facts, const Peer& peer);
  ~Connection() noexcept(false);
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  /// Resolves when the peer is gone.
  [[nodiscard]] kj::Promise<void> WhenEnded() { return network_.onDisconnect(); }

  /// True if the session has an arena and none of its heartbeats has moved for `lease`. Call it a few times per lease, with the
  /// time since the last call that is to count.
  [[nodiscard]] bool Hung(std::chrono::nanoseconds since_last, std::chrono::nanoseconds lease);

  [[nodiscard]] const Peer& peer() const noexcept { return peer_; }

 private:
  using Account = std::shared_ptr<wire::MessageMemory::Account>;
  Connection(wire::EventLoop& loop, kj::AutoCloseFd socket, Services& services, const DaemonFacts& facts, const Peer& peer,
             const Account& messages);
  Connection(wire::EventLoop& loop, kj::AutoCloseFd socket, kj::Own<BootstrapServer> bootstrap, const Peer& peer,
             const Account& messages);

  const Peer peer_;
  PeerCalls calls_;
  BootstrapServer& bootstrap_;  // kept by bootstrap_client_
  wire::Daemon::Client bootstrap_client_;
  wire::MessageSocket socket_;
  capnp::TwoPartyVatNetwork network_;
  capnp::RpcSystem<capnp::rpc::twoparty::VatId> rpc_;

  std::vector<std::uint64_t> heartbeats_;
  std::chrono::nanoseconds silent_{0};  // time that counts since one of them moved
};

}  // namespace kvant::daemon
