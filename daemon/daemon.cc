#include <kvant/daemon.h>

#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <exception>
#include <future>
#include <mutex>
#include <optional>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include <pthread.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <kj/exception.h>

#include "daemon/listener.h"
#include "daemon/memory/budget.h"
#include "daemon/metrics/metrics_socket.h"
#include "daemon/server.h"
#include "daemon/snapshot/state_dir.h"
#include "protocol/memfd.h"
#include "protocol/socket_address.h"
#include "protocol/system_error.h"

namespace kvant {
namespace {

constexpr std::chrono::milliseconds kMinLease{10};
constexpr std::chrono::milliseconds kMaxLease{std::chrono::hours(24)};

Result<void> CheckOptions(const DaemonOptions& options) {
  if (options.lease < kMinLease || options.lease > kMaxLease) {
    return Error{ErrorCode::kInvalidArgument, "start daemon: lease of " + std::to_string(options.lease.count()) +
                                                  " ms; allowed are " + std::to_string(kMinLease.count()) + " to " +
                                                  std::to_string(kMaxLease.count())};
  }
  if (options.spin.count() < 0) {
    return Error{ErrorCode::kInvalidArgument,
                 "start daemon: spin of " + std::to_string(options.spin.count()) + " us is negative"};
  }
  if (options.drain_timeout.count() < 0 || options.drain_timeout > kMaxLease) {
    return Error{ErrorCode::kInvalidArgument, "start daemon: drain timeout of " +
                                                  std::to_string(options.drain_timeout.count()) + " ms; allowed are 0 to " +
                                                  std::to_string(kMaxLease.count())};
  }
  if (options.save_timeout.count() < 0) {
    return Error{ErrorCode::kInvalidArgument,
                 "start daemon: save timeout of " + std::to_string(options.save_timeout.count()) + " ms is negative"};
  }
  if (options.max_connections == 0) {
    return Error{ErrorCode::kInvalidArgument, "start daemon: 0 connections allowed; at least 1"};
  }
  if (options.workers > 1024) {
    return Error{ErrorCode::kInvalidArgument, "start daemon: " + std::to_string(options.workers) + " workers; at most 1024"};
  }
  return {};
}

/// What would fail at the first client's call fails here, where somebody can mend it.
Result<void> CheckMachine(const DaemonOptions& options) {
  const std::uint64_t memory = daemon::MachineMemory();
  if (options.budget_bytes > memory) {
    return Error{ErrorCode::kInvalidArgument, "start daemon: a budget of " + std::to_string(options.budget_bytes) +
                                                  " bytes, this machine has " + std::to_string(memory) + " bytes of memory"};
  }
  auto probe = protocol::CreateSealedMemfd("kvant-probe", 4096);
  if (!probe) return Error{probe.error().code, "start daemon: shared memory cannot be made: " + probe.error().message};
  rlimit files{};
  if (options.log && ::getrlimit(RLIMIT_FSIZE, &files) == 0 && files.rlim_cur != RLIM_INFINITY) {
    options.log->warn("the file-size limit of this process holds for shared memory, larger segments will be refused limit={}",
                      files.rlim_cur);
  }
  return {};
}

/// Of this thread and those it starts: beyond the file-size limit the kernel would end the process instead of failing the call.
void BlockFileSizeSignal() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGXFSZ);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

}  // namespace

/// `server` lives on the daemon's thread; others reach it under the mutex, and only while it is there.
struct Daemon::Impl {
  std::mutex mutex;
  std::condition_variable ended_changed;
  daemon::Server* server = nullptr;  // guarded by mutex
  bool ended = false;                // guarded by mutex
  std::optional<Error> fault;        // guarded by mutex
  std::thread thread;

  ~Impl() {
    Stop();
    if (thread.joinable()) thread.join();
  }

  void Stop() noexcept {
    const std::lock_guard lock(mutex);
    if (server != nullptr) server->Stop();
  }

  void Drain() noexcept {
    const std::lock_guard lock(mutex);
    if (server != nullptr) server->Drain();
  }

  /// The daemon's thread. `started` gets the outcome of making the loop.
  void Main(const DaemonOptions& options, daemon::Budget budget, std::optional<daemon::Listener> listener,
            std::optional<daemon::MetricsSocket> metrics, std::optional<daemon::StateDir> state, protocol::UniqueFd eventfd,
            std::promise<Result<void>> started) {
    BlockFileSizeSignal();
    bool told = false;
    const auto serve = [&] {
      daemon::Server here(options, std::move(budget), std::move(listener), std::move(metrics), std::move(state),
                          std::move(eventfd));
      SetServer(&here);
      started.set_value({});
      told = true;
      try {
        here.Run();
      } catch (...) {
        SetServer(nullptr);
        throw;
      }
      SetServer(nullptr);
      if (const auto not_saved = here.StateFault()) {
        const std::lock_guard lock(mutex);
        fault = not_saved;
      }
    };
    std::string what;
    try {
      serve();
    } catch (const kj::Exception& exception) {
      what.assign(exception.getDescription().begin(), exception.getDescription().size());
    } catch (const std::exception& exception) {
      what = exception.what();
    }
    if (!what.empty()) {
      const Error error{ErrorCode::kInternal, "the daemon's event loop failed: " + what};
      if (!told) started.set_value(error);
      const std::lock_guard lock(mutex);
      fault = error;
    }
    const std::lock_guard lock(mutex);
    ended = true;
    ended_changed.notify_all();
  }

  void HandOver(int exit_code, Successor successor) noexcept {
    const std::lock_guard lock(mutex);
    if (server != nullptr) server->HandOver(exit_code, successor);
  }

  void SetLimits(const DaemonLimits& limits) noexcept {
    const std::lock_guard lock(mutex);
    if (server != nullptr) server->SetLimits(limits);
  }

  void SetServer(daemon::Server* to) {
    const std::lock_guard lock(mutex);
    server = to;
  }
};

Daemon::Daemon(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Daemon::~Daemon() = default;

Result<std::unique_ptr<Daemon>> Daemon::Start(DaemonOptions options) {
  if (auto checked = CheckOptions(options); !checked) return checked.error();
  if (auto able = CheckMachine(options); !able) return able.error();
  auto budget = daemon::Budget::Make(options.budget_bytes);
  if (!budget) return budget.error();
  std::optional<daemon::Listener> listener;
  if (!options.socket.empty()) {
    auto path = protocol::ParseSocketPath(options.socket);
    if (!path) return path.error();
    auto opened = options.listen_fd < 0 ? daemon::Listener::Open(*path)
                                        : daemon::Listener::Adopt(*path, protocol::UniqueFd(options.listen_fd));
    if (!opened) return opened.error();
    listener.emplace(*std::move(opened));
  }
  std::optional<daemon::StateDir> state;
  if (!options.state_dir.empty()) {
    auto opened = daemon::StateDir::Open(options.state_dir);
    if (!opened) return opened.error();
    state.emplace(*std::move(opened));
  }
  std::optional<daemon::MetricsSocket> metrics;
  if (!options.metrics.empty()) {
    auto opened = daemon::MetricsSocket::Open(options.metrics);
    if (!opened) return opened.error();
    metrics.emplace(*std::move(opened));
  }
  protocol::UniqueFd eventfd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!eventfd.valid()) return protocol::SystemError("start daemon: eventfd", errno);

  auto impl = std::make_unique<Impl>();
  std::promise<Result<void>> promise;
  auto started = promise.get_future();
  try {
    impl->thread = std::thread([impl = impl.get(), options = std::move(options), budget = *std::move(budget),
                                listener = std::move(listener), metrics = std::move(metrics), state = std::move(state),
                                eventfd = std::move(eventfd), promise = std::move(promise)]() mutable {
      impl->Main(options, std::move(budget), std::move(listener), std::move(metrics), std::move(state), std::move(eventfd),
                 std::move(promise));
    });
  } catch (const std::system_error& failure) {
    return Error{ErrorCode::kSystem, std::string("start daemon: thread: ") + failure.what()};
  }
  if (auto outcome = started.get(); !outcome) return outcome.error();
  return std::unique_ptr<Daemon>(new Daemon(std::move(impl)));
}

Result<int> Daemon::Connect() {
  int ends[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) != 0) {
    return protocol::SystemError("connect to the daemon: socketpair", errno);
  };
  protocol::UniqueFd ours(ends[0]);
  protocol::UniqueFd theirs(ends[1]);
  const std::lock_guard lock(impl_->mutex);
  if (impl_->server == nullptr) return Error{ErrorCode::kDisconnected, "connect to the daemon: it has ended"};
  impl_->server->Serve(std::move(theirs));
  return ours.Release();
}

void Daemon::Drain() noexcept { impl_->Drain(); }
void Daemon::HandOver(int exit_code, Successor successor) noexcept { impl_->HandOver(exit_code, successor); }
void Daemon::SetLimits(const DaemonLimits& limits) noexcept { impl_->SetLimits(limits); }
void Daemon::Stop() noexcept { impl_->Stop(); }

Result<void> Daemon::Wait() {
  std::unique_lock lock(impl_->mutex);
  impl_->ended_changed.wait(lock, [this] { return impl_->ended; });
  if (impl_->fault) return *impl_->fault;
  return {};
}

}  // namespace kvant
