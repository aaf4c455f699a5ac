// The daemon's thread: one event loop that owns everything, accepts connections and drops those that end.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>

#include <kj/async.h>
#include <kj/io.h>

#include <kvant/daemon.h>
#include <kvant/result.h>

#include "daemon/listener.h"
#include "daemon/loop_queue.h"
#include "daemon/memory/budget.h"
#include "daemon/serve/admin_server.h"
#include "daemon/serve/attend_service.h"
#include "daemon/serve/connection.h"
#include "daemon/serve/session.h"
#include "daemon/store/core.h"
#include "daemon/store/store_table.h"
#include "daemon/worker_threads.h"
#include "protocol/event_loop.h"
#include "quantizers/attention/worker_team.h"
#include "quantizers/registry.h"

namespace kvant::daemon {

/// Made, run and destroyed on one thread. Post and Stop may be called from others while it lives.
class Server final : private kj::TaskSet::ErrorHandler {
 public:
  /// `listener` may be empty; `budget` is uncharged.
  Server(const DaemonOptions& options, Budget budget, std::optional<Listener> listener, protocol::UniqueFd eventfd);
  ~Server() noexcept(false);
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  /// Serves until Stop.
  void Run();
  /// Any thread.
  void Stop();
  /// Serves one end of a socket pair. Any thread.
  void Serve(protocol::UniqueFd socket);

 private:
  void Adopt(kj::AutoCloseFd socket);
  void Drop(std::uint64_t connection);
  kj::Promise<void> Accept();
  kj::Promise<void> WatchHeartbeats();
  void taskFailed(kj::Exception&& exception) override;

  const DaemonOptions options_;
  wire::EventLoop loop_;
  kj::PromiseFulfillerPair<void> stop_ = kj::newPromiseAndFulfiller<void>();
  LoopQueue queue_;  // before the threads that post to it

  const quantizers::Registry builtin_codecs_;
  Budget budget_;
  std::unique_ptr<WorkerThreads> encode_;
  std::unique_ptr<WorkerThreads> populate_;
  quantizers::WorkerTeam team_;
  Core core_;
  std::unique_ptr<StoreTable> stores_;
  AttendService attend_;
  Services services_;
  const DaemonFacts facts_;

  std::optional<Listener> listener_;
  std::optional<kj::UnixEventPort::FdObserver> newcomers_;  // of the listener's socket
  std::uint64_t next_connection_ = 1;
  std::map<std::uint64_t, std::unique_ptr<Connection>> connections_;
  kj::Own<kj::TaskSet> tasks_;  // last: runs over the others
};

}  // namespace kvant::daemon
