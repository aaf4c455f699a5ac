#include "daemon/serve/connections.h"

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <sys/socket.h>

namespace kvant::daemon {
namespace {

constexpr kj::Duration kAcceptPause = 100 * kj::MILLISECONDS;  // when descriptors have run out

}  // namespace

Connections::Connections(wire::EventLoop& loop, Services& services, const DaemonFacts& facts, DaemonLog& log,
                         std::chrono::milliseconds lease, std::size_t most)
    : loop_(loop),
      services_(services),
      facts_(facts),
      log_(log),
      lease_(lease),
      most_(most),
      ends_(kj::heap<kj::TaskSet>(static_cast<kj::TaskSet::ErrorHandler&>(*this))) {}

kj::Promise<void> Connections::Accept(int listener) {
  newcomers_.emplace(loop_.port(), listener, kj::UnixEventPort::FdObserver::OBSERVE_READ);
  return AcceptNext(listener).attach(kj::defer([this] { newcomers_.reset(); }));
}

kj::Promise<void> Connections::AcceptNext(int listener) {
  for (;;) {
    const int socket = ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    const int error = errno;
    if (socket >= 0) {
      const auto failure = kj::runCatchingExceptions([&] { Adopt(kj::AutoCloseFd(socket)); });
      KJ_IF_MAYBE (exception, failure) Refuse(&Refusals::no_descriptor, Description(*exception));
    } else if (error == EAGAIN || error == EWOULDBLOCK) {
      return newcomers_->whenBecomesReadable().then([this, listener] { return AcceptNext(listener); });
    } else if (error != EINTR && error != ECONNABORTED) {  // that one had gone already
      Refuse(&Refusals::no_descriptor, std::generic_category().message(error));
      return loop_.timer().afterDelay(kAcceptPause).then([this, listener] { return AcceptNext(listener); });
    }
  }
}

void Connections::Adopt(kj::AutoCloseFd socket) {
  if (connections_.size() >= most_) {
    return Refuse(&Refusals::connection_limit,
                  "there are " + std::to_string(connections_.size()) + " already (--max-connections)");
  }
  const Peer peer = PeerOf(socket);
  const std::uint64_t id = next_++;
  if (auto* log = log_.logger()) log->debug("client connected connection={} pid={} uid={}", id, peer.pid, peer.uid);
  auto connection = std::make_unique<Connection>(loop_, kj::mv(socket), services_, facts_, id, peer);
  ends_->add(connection->WhenEnded().then([this, id] { Drop(id); },
                                          [this, id](kj::Exception&& exception) {
                                            ++services_.counters.broken_connections;
                                            log_.Report("a connection", exception);
                                            Drop(id);
                                          }));
  TellOfClient(services_, "client_connected", connection->record());
  connections_.emplace(id, std::move(connection));
  ++services_.counters.accepted_connections;
  EndRefusals();
}

void Connections::Drop(std::uint64_t connection) {
  const auto found = connections_.find(connection);
  if (found == connections_.end()) return;
  TellOfClient(services_, "client_gone", found->second->record());
  connections_.erase(found);
  if (auto* log = log_.logger()) log->debug("client gone connection={}", connection);
}

void Connections::DropHung() {
  const auto now = std::chrono::steady_clock::now();
  // Time in which this thread did not run counts against nobody: when a machine was paused, its clients were, too.
  const auto ran = std::min<std::chrono::nanoseconds>(now - watched_, std::chrono::nanoseconds(lease_) / 4);
  watched_ = now;
  std::vector<std::uint64_t> hung;
  for (const auto& [id, connection] : connections_) {
    if (!connection->Hung(ran, lease_)) continue;
    hung.push_back(id);
    TellOfClient(services_, "client_hung", connection->record());
    log_.Tell("client hung, dropped connection=" + std::to_string(id) + " pid=" + std::to_string(connection->peer().pid) +
              " lease_ms=" + std::to_string(lease_.count()));
  }
  services_.counters.dropped_clients += hung.size();
  for (const std::uint64_t id : hung) Drop(id);
}

/// Every refusal is counted; the log has the first of a row and, once connections are accepted again, how many there were.
void Connections::Refuse(std::uint64_t Refusals::*reason, std::string_view why) {
  CountRefusal(services_, reason, why);
  if (refused_in_a_row_++ == 0) refusal_told_ = log_.Tell("connection refused reason=\"" + std::string(why) + "\"");
}

void Connections::EndRefusals() {
  const std::uint64_t refused = std::exchange(refused_in_a_row_, 0);
  if (refused > 0 && refusal_told_) log_.logger()->info("connections are accepted again refused={}", refused);
}

}  // namespace kvant::daemon
