#include "daemon/serve/connection.h"

#include <string>
#include <utility>

#include <sys/socket.h>
#include <unistd.h>

#include "daemon/serve/refusals.h"
#include "daemon/serve/rpc_handler.h"
#include "daemon/serve/session_server.h"
#include "protocol/segment_layout.h"
#include "protocol/wire.h"

namespace kvant::daemon {
namespace {

/// Of calls that are not answered yet: while there is more of them nothing further is read from their client.
constexpr std::size_t kFlowWords = std::size_t{1} << 16;

Result<void> CheckHello(wire::Hello::Reader hello, const DaemonFacts& facts) {
  if (hello.getProtocolVersion() != wire::kProtocolVersion ||
      hello.getSegmentLayoutVersion() != protocol::kSegmentLayoutVersion) {
    return Error{ErrorCode::kVersionMismatch,
                 "hello: the client speaks protocol " + std::to_string(hello.getProtocolVersion()) + " and segment layout " +
                     std::to_string(hello.getSegmentLayoutVersion()) + ", the daemon (version " KVANT_VERSION ") protocol " +
                     std::to_string(wire::kProtocolVersion) + " and segment layout " +
                     std::to_string(protocol::kSegmentLayoutVersion)};
  }
  if (hello.getBootToken() != 0 && hello.getBootToken() != facts.boot_token) {
    return Error{ErrorCode::kStaleDaemon, "hello: the daemon with boot token " + std::to_string(hello.getBootToken()) +
                                              " has ended, this is another (" + std::to_string(facts.boot_token) +
                                              "); reopen what it had"};
  }
  return {};
}

}  // namespace

void TellOfClient(Services& services, std::string_view kind, const ClientRecord& client) {
  if (!services.core.events.watched()) return;
  services.core.events.Tell(kind, {{"connection", client.connection},
                                   {"pid", static_cast<std::uint64_t>(client.peer.pid)},
                                   {"uid", std::uint64_t{client.peer.uid}},
                                   {"tenant", client.tenant},
                                   {"client", client.name}});
}

Peer PeerOf(int socket) noexcept {
  ucred credentials{};
  socklen_t length = sizeof(credentials);
  const int failed = ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &credentials, &length);
  if (failed != 0 || length != sizeof(credentials)) return {};
  return {credentials.pid, credentials.uid};
}

bool MayAdminister(const Peer& peer) noexcept { return peer.uid == ::geteuid() || peer.uid == 0; }

kj::Promise<void> BootstrapServer::hello(HelloContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    const auto hello = context.getParams().getHello();
    auto checked = CheckHello(hello, facts_);
    const auto present = session();
    if (checked && present && !present->closed()) {
      checked = Error{ErrorCode::kInvalidArgument, "hello: this connection has a session; drop it or connect again"};
    }
    if (!checked) {
      WriteRefusal(services_, checked.error(), context.getResults().initError());
      return kj::READY_NOW;
    }
    record_->name = StringOf(hello.getClientName(), wire::MAX_LABEL_TEXT);
    record_->tenant = services_.tenant_names.Of(record_->peer.uid);
    auto session = std::make_shared<Session>(services_, record_->name, arenas_, messages_,
                                             services_.stores.FindTenant(record_->tenant), record_);
    session_ = session;
    record_->session = session;
    TellOfClient(services_, "session_opened", *record_);
    auto ok = context.getResults().initOk();
    ok.setSession(kj::heap<SessionServer>(std::move(session)));
    WriteDaemonInfo(facts_, ok.initDaemon());
    return kj::READY_NOW;
  });
}

kj::Promise<void> BootstrapServer::admin(AdminContext context) {
  return RunHandler([&]() -> kj::Promise<void> {
    auto checked = CheckHello(context.getParams().getHello(), facts_);
    if (checked && !MayAdminister(record_->peer)) {
      checked = Error{ErrorCode::kPermissionDenied, "admin: uid " + std::to_string(record_->peer.uid) +
                                                        " may not administer this daemon, which runs as uid " +
                                                        std::to_string(::geteuid())};
    }
    if (!checked) {
      const bool version = checked.error().code != ErrorCode::kPermissionDenied;
      CountRefusal(services_, version ? ReasonOf(checked.error().code) : &Refusals::not_admin, checked.error().message,
                   record_.get());
      wire::WriteError(checked.error(), context.getResults().initError());
      return kj::READY_NOW;
    }
    record_->name = StringOf(context.getParams().getHello().getClientName(), wire::MAX_LABEL_TEXT);
    record_->admin = true;
    TellOfClient(services_, "admin_opened", *record_);
    auto ok = context.getResults().initOk();
    ok.setAdmin(kj::heap<AdminServer>(services_, facts_));
    WriteDaemonInfo(facts_, ok.initDaemon());
    return kj::READY_NOW;
  });
}

void BootstrapServer::CloseSession() {
  if (auto session = session_.lock()) session->Close();
}

Connection::Connection(wire::EventLoop& loop, kj::AutoCloseFd socket, Services& services, const DaemonFacts& facts,
                       std::uint64_t number, const Peer& peer)
    : Connection(loop, kj::mv(socket), services, facts,
                 std::make_shared<ClientRecord>(ClientRecord{.connection = number, .peer = peer}),
                 std::make_shared<wire::MessageMemory::Account>(services.message_memory)) {}

Connection::Connection(wire::EventLoop& loop, kj::AutoCloseFd socket, Services& services, const DaemonFacts& facts,
                       const Record& record, const Account& messages)
    : Connection(loop, kj::mv(socket), services, kj::heap<BootstrapServer>(services, facts, record, messages), record,
                 messages) {}

Connection::Connection(wire::EventLoop& loop, kj::AutoCloseFd socket, Services& services, kj::Own<BootstrapServer> bootstrap,
                       const Record& record, const Account& messages)
    : services_(services),
      record_(record),
      calls_(*record, messages),
      bootstrap_(*bootstrap),
      bootstrap_client_(kj::mv(bootstrap)),
      socket_(loop, kj::mv(socket), 0, messages),  // descriptors flow to clients only
      network_(socket_, wire::kMaxFdsPerMessage, capnp::rpc::twoparty::Side::SERVER, wire::ReaderOptionsOfPeer()),
      rpc_(capnp::makeRpcServer(network_, bootstrap_client_)) {
  socket_.SetCheck([this](capnp::MessageReader& message) { calls_.Check(message); });
  rpc_.setFlowLimit(kFlowWords);
  services_.clients.emplace(record_->connection, record_);
}

Connection::~Connection() noexcept(false) {
  services_.clients.erase(record_->connection);
  bootstrap_.CloseSession();
}

bool Connection::Hung(std::chrono::nanoseconds since_last, std::chrono::nanoseconds lease) {
  const auto session = bootstrap_.session();
  std::vector<std::uint64_t> heartbeats = session ? session->Heartbeats() : std::vector<std::uint64_t>{};
  if (heartbeats.empty() || heartbeats != heartbeats_) {
    heartbeats_ = std::move(heartbeats);
    record_->silent = {};
    return false;
  }
  record_->silent += since_last;
  return record_->silent >= lease;
}

}  // namespace kvant::daemon
