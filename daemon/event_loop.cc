#include "daemon/event_loop.h"

#include <algorithm>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <spdlog/spdlog.h>

namespace kvant::daemon {
namespace {

using Clock = std::chrono::steady_clock;

constexpr kj::Duration kAcceptPause = 100 * kj::MILLISECONDS;  // when descriptors have run out
constexpr unsigned kTakeSocket = kj::LowLevelAsyncIoProvider::TAKE_OWNERSHIP | kj::LowLevelAsyncIoProvider::ALREADY_CLOEXEC |
                                 kj::LowLevelAsyncIoProvider::ALREADY_NONBLOCK;
constexpr unsigned kKeepSocket = kj::LowLevelAsyncIoProvider::ALREADY_CLOEXEC | kj::LowLevelAsyncIoProvider::ALREADY_NONBLOCK;

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

void Activity::Touch() {
  ++touches_;
  if (auto sleeper = kj::mv(sleeper_); sleeper.get() != nullptr) sleeper->fulfill();
}

void Activity::Run(kj::WaitScope& wait_scope, std::chrono::microseconds spin, const std::function<bool()>& stopped) {
  std::uint64_t seen = touches_;
  while (!stopped()) {
    if (seen == touches_) {
      auto pair = kj::newPromiseAndFulfiller<void>();
      sleeper_ = kj::mv(pair.fulfiller);
      pair.promise.wait(wait_scope);
    }
    seen = touches_;
    for (auto end = Clock::now() + spin; !stopped() && Clock::now() < end;) {
      wait_scope.poll();
      if (seen == touches_) continue;
      seen = touches_;
      end = Clock::now() + spin;
    }
  }
}

EventLoop::EventLoop(const DaemonOptions& options, Budget budget, std::optional<Listener> listener, protocol::UniqueFd eventfd)
    : options_(options),
      io_(kj::setupAsyncIo()),
      queue_(io_.unixEventPort, std::move(eventfd), [this] { activity_.Touch(); }),
      builtin_codecs_(quantizers::Registry::Builtin()),
      budget_(std::move(budget)),
      encode_(std::make_unique<WorkerThreads>(Workers(options), [this](std::function<void()> work) { queue_.Post(std::move(work)); })),
      populate_(std::make_unique<WorkerThreads>(1, [this](std::function<void()> work) { queue_.Post(std::move(work)); })),
      team_(Workers(options) - 1),
      core_{.budget = budget_,
            .encode = *encode_,
            .populate = *populate_,
            .codecs = options.codecs != nullptr ? *options.codecs : builtin_codecs_,
            .boot_token = NewBootToken(),
            .reclaim = {}},
      stores_(std::make_unique<StoreTable>(core_)),
      attend_(team_),
      services_{.core = core_, .stores = *stores_, .attend = attend_, .arena_limit_bytes = options.arena_limit_bytes, .counters = {}, .sessions = {}},
      facts_{.boot_token = core_.boot_token, .budget_bytes = options.budget_bytes, .lease_ms = static_cast<std::uint32_t>(options.lease.count())},
      listener_(std::move(listener)),
      tasks_(kj::heap<kj::TaskSet>(static_cast<kj::TaskSet::ErrorHandler&>(*this))) {
  if (listener_) {
    receiver_ = io_.lowLevelProvider->wrapListenSocketFd(listener_->fd(), kKeepSocket);
    tasks_->add(Accept());
  }
  tasks_->add(WatchHeartbeats());
}

EventLoop::~EventLoop() noexcept(false) {
  tasks_ = nullptr;
  connections_.clear();  // sessions, sequences, leases; encodings in flight are abandoned
  encode_.reset();       // joins
  populate_.reset();
  queue_.Discard();  // ends of encodings hold slots and charges of members that die before the queue
}

void EventLoop::Run() {
  if (options_.log) {
    options_.log->info("serving socket={} boot_token={} budget_bytes={} workers={} lease_ms={}",
                       listener_ ? listener_->path() : "none", core_.boot_token, options_.budget_bytes, Workers(options_),
                       options_.lease.count());
  }
  activity_.Run(io_.waitScope, options_.spin, [this] { return stopped_; });
  if (options_.log) options_.log->info("stopping connections={}", connections_.size());
}

void EventLoop::Stop() {
  queue_.Post([this] { stopped_ = true; });
}

void EventLoop::Serve(protocol::UniqueFd socket) {
  // std::function wants to be copied, and a post that never runs must not leak the descriptor.
  auto shared = std::make_shared<protocol::UniqueFd>(std::move(socket));
  queue_.Post([this, shared] { Adopt(io_.lowLevelProvider->wrapUnixSocketFd(shared->Release(), kTakeSocket)); });
}

void EventLoop::Adopt(kj::Own<kj::AsyncIoStream> stream) {
  const Peer peer = PeerOf(*stream);
  const std::uint64_t id = next_connection_++;
  if (options_.log) options_.log->debug("client connected connection={} pid={} uid={}", id, peer.pid, peer.uid);
  auto connection = std::make_unique<Connection>(stream.downcast<kj::AsyncCapabilityStream>(), services_, facts_, peer,
                                                 [this] { activity_.Touch(); });
  tasks_->add(connection->WhenEnded().then([this, id] { Drop(id); }));
  connections_.emplace(id, std::move(connection));
}

void EventLoop::Drop(std::uint64_t connection) {
  if (connections_.erase(connection) == 0) return;
  if (options_.log) options_.log->debug("client gone connection={}", connection);
}

kj::Promise<void> EventLoop::Accept() {
  return receiver_->accept().then(
      [this](kj::Own<kj::AsyncIoStream> stream) {
        activity_.Touch();
        Adopt(kj::mv(stream));
        return Accept();
      },
      [this](kj::Exception&& exception) -> kj::Promise<void> {
        if (options_.log) options_.log->warn("accept failed error=\"{}\"", Str(exception));
        return io_.provider->getTimer().afterDelay(kAcceptPause).then([this] { return Accept(); });
      });
}

kj::Promise<void> EventLoop::WatchHeartbeats() {
  const auto quarter = std::max<std::chrono::milliseconds>(options_.lease / 4, std::chrono::milliseconds(1));
  return io_.provider->getTimer().afterDelay(quarter.count() * kj::MILLISECONDS).then([this] {
    const auto now = Clock::now();
    std::vector<std::uint64_t> hung;
    for (const auto& [id, connection] : connections_) {
      if (!connection->Hung(now, options_.lease)) continue;
      hung.push_back(id);
      if (options_.log) {
        options_.log->warn("client hung, dropped connection={} pid={} lease_ms={}", id, connection->peer().pid, options_.lease.count());
      }
    }
    services_.counters.dropped_clients += hung.size();
    for (const std::uint64_t id : hung) Drop(id);
    return WatchHeartbeats();
  });
}

void EventLoop::taskFailed(kj::Exception&& exception) {
  if (options_.log) options_.log->error("task failed error=\"{}\"", Str(exception));
}

}  // namespace kvant::daemon
