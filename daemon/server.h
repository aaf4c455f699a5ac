// The daemon's thread: one event loop that owns everything, accepts connections and drops those that end.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include <kj/async.h>
#include <kj/io.h>

#include <kvant/daemon.h>
#include <kvant/result.h>

#include "daemon/daemon_log.h"
#include "daemon/kept_state.h"
#include "daemon/listener.h"
#include "daemon/loop_queue.h"
#include "daemon/memory/budget.h"
#include "daemon/metrics/metrics_server.h"
#include "daemon/repeated_step.h"
#include "daemon/serve/admin_server.h"
#include "daemon/serve/attend_service.h"
#include "daemon/serve/connections.h"
#include "daemon/serve/long_attention.h"
#include "daemon/serve/session.h"
#include "daemon/serve/store_openings.h"
#include "daemon/store/core.h"
#include "daemon/store/store_table.h"
#include "daemon/worker_threads.h"
#include "protocol/event_loop.h"
#include "quantizers/attention/worker_team.h"
#include "quantizers/registry.h"

namespace kvant::daemon {

/// Made, run and destroyed on one thread. Drain, Stop and Serve may be called from others while it lives.
///
/// What runs for as long as the daemon does (accepting, watching heartbeats, the queue of other threads' work) goes on when a
/// single connection, look or piece of work throws: that is logged. Should such a chain itself end, Run throws, for a daemon
/// that seems to live but hears nothing is worse than none.
class Server final {
 public:
  /// `listener`, `metrics` and `state` may be empty; `budget` is uncharged. What `state` keeps is restored here.
  Server(const DaemonOptions& options, Budget budget, std::optional<Listener> listener, std::optional<MetricsSocket> metrics,
         std::optional<StateDir> state, protocol::UniqueFd eventfd);
  ~Server() noexcept(false);
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Serves until Stop, or until Drain is done. Throws kj::Exception if something that the daemon cannot do without has failed.
  void Run();
  /// See kvant::Daemon. Any thread.
  void Drain();
  void HandOver(int exit_code, Daemon::Successor successor);
  void SetLimits(const DaemonLimits& limits);
  /// Any thread.
  void Stop();
  /// As KeptState::Fault, once Run has returned.
  [[nodiscard]] std::optional<Error> StateFault() const { return state_ ? state_->Fault() : std::nullopt; }
  /// Serves one end of a socket pair. Any thread.
  void Serve(protocol::UniqueFd socket);

 private:
  std::unique_ptr<WorkerThreads> MakeWorkers(const char* name, std::size_t threads);
  kj::Duration WatchHeartbeats();
  kj::Duration TendRoom();
  kj::Promise<void> TellAlive();
  void RememberEvicted();
  void RestoreHeld();
  void BeginDrain();
  kj::Promise<void> SaveState();
  /// Everything that was told so far, by all who watch.
  kj::Promise<void> WhenHeard();
  std::unique_ptr<MetricsServer> ServeMetrics(MetricsSocket socket);
  [[nodiscard]] kj::Promise<void> Essential(std::string_view what, kj::Promise<void> chain);
  void Fail(std::string_view what, const kj::Exception& exception);

  DaemonOptions options_;
  DaemonLog log_;
  wire::EventLoop loop_;
  kj::PromiseFulfillerPair<void> stop_ = kj::newPromiseAndFulfiller<void>();
  LoopQueue queue_;  // before the threads that post to it

  const quantizers::Registry builtin_codecs_;
  Budget budget_;
  Budget arena_budget_;
  std::unique_ptr<WorkerThreads> encode_;
  std::unique_ptr<WorkerThreads> populate_;
  std::unique_ptr<WorkerThreads> plans_;
  quantizers::WorkerTeam team_;
  Core core_;
  std::unique_ptr<StoreTable> stores_;
  StoreOpenings openings_;
  PrefixChecks prefix_checks_;
  AttendService attend_;
  std::unique_ptr<LongAttention> long_attention_;
  Services services_;
  DaemonFacts facts_;

  std::unique_ptr<KeptState> state_;  // null: none is kept
  std::unique_ptr<MetricsServer> metrics_;
  std::optional<Listener> listener_;
  std::optional<int> hand_over_;  // the exit code
  Daemon::Successor successor_ = Daemon::Successor::kMayNotCome;
  std::unique_ptr<Connections> connections_;
  // Last: these run over the others.
  kj::Promise<void> draining_ = kj::READY_NOW;
  kj::Promise<void> accepting_ = kj::READY_NOW;
  RepeatedStep heartbeats_;
  RepeatedStep room_;
  kj::Promise<void> watching_ = kj::READY_NOW;
  kj::Promise<void> tending_ = kj::READY_NOW;
  kj::Promise<void> telling_ = kj::READY_NOW;
};

}  // namespace kvant::daemon
