#include "daemon/server.h"

#include <algorithm>
#include <cerrno>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <spdlog/spdlog.h>
#include <sys/socket.h>

#include "kernels/machine/instructions.h"

namespace kvant::daemon {
namespace {

using Clock = std::chrono::steady_clock;

/// Encoding has until its block switches (SealSlack tokens); a step has no time at all. Where they want the same core, the step
/// gets nine tenths of it.
constexpr int kNicer = 10;
constexpr kj::Duration kAcceptPause = 100 * kj::MILLISECONDS;  // when descriptors have run out

/// Never 0, which at hello means "any daemon".
std::uint64_t NewBootToken() {
  std::random_device entropy;
  const std::uint64_t token = (std::uint64_t{entropy()} << 32) | entropy();
  return token == 0 ? 1 : token;
}

std::size_t Workers(const DaemonOptions& options) {
  if (options.workers > 0) return options.workers;
  return std::max<std::size_t>(1, std::thread::hardware_concurrency());
}

std::string Str(const kj::Exception& exception) {
  const kj::StringPtr text = exception.getDescription();
  return {text.begin(), text.size()};
}

}  // namespace

Server::Server(const DaemonOptions& options, Budget budget, std::optional<Listener> listener, protocol::UniqueFd eventfd)
    : options_(options),
      queue_(loop_.port(), std::move(eventfd)),
      builtin_codecs_(quantizers::Registry::Builtin()),
      budget_(std::move(budget)),
      encode_(std::make_unique<WorkerThreads>(Workers(options), kNicer,
                                              [this](std::function<void()> work) { queue_.Post(std::move(work)); })),
      populate_(
          std::make_unique<WorkerThreads>(1, kNicer, [this](std::function<void()> work) { queue_.Post(std::move(work)); })),
      team_(Workers(options) - 1),
      core_{.budget = budget_,
            .encode = *encode_,
            .populate = *populate_,
            .codecs = options.codecs != nullptr ? *options.codecs : builtin_codecs_,
            .boot_token = NewBootToken(),
            .reclaim = {},
            .notify =
                [this](std::string_view event) {
                  if (options_.log) options_.log->warn("{}", event);
                }},
      stores_(std::make_unique<StoreTable>(core_)),
      attend_(team_),
      services_{.core = core_,
                .stores = *stores_,
                .attend = attend_,
                .arena_limit_bytes = options.arena_limit_bytes,
                .counters = {},
                .sessions = {}},
      facts_{.boot_token = core_.boot_token,
             .budget_bytes = options.budget_bytes,
             .lease_ms = static_cast<std::uint32_t>(options.lease.count())},
      listener_(std::move(listener)),
      tasks_(kj::heap<kj::TaskSet>(static_cast<kj::TaskSet::ErrorHandler&>(*this))) {
  loop_.set_spin(options_.spin);
  if (listener_) {
    newcomers_.emplace(loop_.port(), listener_->fd(), kj::UnixEventPort::FdObserver::OBSERVE_READ);
    tasks_->add(Accept());
  }
  tasks_->add(WatchHeartbeats());
}

Server::~Server() noexcept(false) {
  tasks_ = nullptr;
  connections_.clear();  // sessions, sequences, leases; encodings in flight are abandoned
  encode_.reset();       // joins
  populate_.reset();
  queue_.Discard();  // ends of encodings hold slots and charges of members that die before the queue
}

void Server::Run() {
  if (options_.log) {
    options_.log->info("serving socket={} boot_token={} budget_bytes={} workers={} lease_ms={} kernels={}",
                       listener_ ? listener_->path() : "none", core_.boot_token, options_.budget_bytes, Workers(options_),
                       options_.lease.count(), kernels::Instructions());
  }
  stop_.promise.wait(loop_.wait_scope());
  if (options_.log) options_.log->info("stopping connections={}", connections_.size());
}

void Server::Stop() {
  queue_.Post([this] { stop_.fulfiller->fulfill(); });
}

void Server::Serve(protocol::UniqueFd socket) {
  // std::function wants to be copied, and a post that never runs must not leak the descriptor.
  auto shared = std::make_shared<protocol::UniqueFd>(std::move(socket));
  queue_.Post([this, shared] { Adopt(kj::AutoCloseFd(shared->Release())); });
}

void Server::Adopt(kj::AutoCloseFd socket) {
  const Peer peer = PeerOf(socket);
  const std::uint64_t id = next_connection_++;
  if (options_.log) options_.log->debug("client connected connection={} pid={} uid={}", id, peer.pid, peer.uid);
  auto connection = std::make_unique<Connection>(loop_, kj::mv(socket), services_, facts_, peer);
  tasks_->add(connection->WhenEnded().then([this, id] { Drop(id); }));
  connections_.emplace(id, std::move(connection));
}

void Server::Drop(std::uint64_t connection) {
  if (connections_.erase(connection) == 0) return;
  if (options_.log) options_.log->debug("client gone connection={}", connection);
}

kj::Promise<void> Server::Accept() {
  for (;;) {
    const int socket = ::accept4(listener_->fd(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    const int error = errno;
    if (socket >= 0) {
      Adopt(kj::AutoCloseFd(socket));
    } else if (error == EAGAIN || error == EWOULDBLOCK) {
      return newcomers_->whenBecomesReadable().then([this] { return Accept(); });
    } else if (error != EINTR && error != ECONNABORTED) {  // that one had gone already
      if (options_.log) options_.log->warn("accept failed error=\"{}\"", std::generic_category().message(error));
      return loop_.timer().afterDelay(kAcceptPause).then([this] { return Accept(); });
    }
  }
}

kj::Promise<void> Server::WatchHeartbeats() {
  const auto quarter = std::max<std::chrono::milliseconds>(options_.lease / 4, std::chrono::milliseconds(1));
  return loop_.timer().afterDelay(quarter.count() * kj::MILLISECONDS).then([this] {
    const auto now = Clock::now();
    std::vector<std::uint64_t> hung;
    for (const auto& [id, connection] : connections_) {
      if (!connection->Hung(now, options_.lease)) continue;
      hung.push_back(id);
      if (options_.log) {
        options_.log->warn("client hung, dropped connection={} pid={} lease_ms={}", id, connection->peer().pid,
                           options_.lease.count());
      }
    }
    services_.counters.dropped_clients += hung.size();
    for (const std::uint64_t id : hung) Drop(id);
    return WatchHeartbeats();
  });
}

void Server::taskFailed(kj::Exception&& exception) {
  if (options_.log) options_.log->error("task failed error=\"{}\"", Str(exception));
}

}  // namespace kvant::daemon
