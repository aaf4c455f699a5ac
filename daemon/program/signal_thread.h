// What kvantd does when it is told to by a signal.
#pragma once

#include <signal.h>

#include <atomic>
#include <functional>
#include <memory>
#include <thread>

#include <spdlog/logger.h>

#include <kvant/daemon.h>

#include "daemon/holder/fd_store.h"

namespace kvant::daemon {

struct OnSignals {
  std::shared_ptr<FdStore> store;     ///< is told of the end, and holds what a successor goes on with; null: nobody
  bool memory_stays = false;          ///< the store decides when the memory ends: SIGTERM, too, leaves it there
  std::function<void()> reload = {};  ///< SIGHUP; empty: it ends the daemon as SIGTERM does
};

/// Blocks the signals below in the calling thread and those it starts, so that only SignalThread takes them.
sigset_t BlockSignals();

/// Waits for signals on a thread of its own. The first SIGTERM or SIGINT drains the daemon, the second stops it, and a daemon
/// that does not even stop is left to the kernel. SIGUSR2 hands over to a successor, where a store holds the memory; elsewhere
/// it drains. Ends when it is destroyed.
class SignalThread {
 public:
  /// All outlive it.
  SignalThread(Daemon& daemon, spdlog::logger& log, const sigset_t& signals, const OnSignals& on);
  ~SignalThread();
  SignalThread(const SignalThread&) = delete;
  SignalThread& operator=(const SignalThread&) = delete;

 private:
  void Run();
  int WaitForEnd();

  Daemon& daemon_;
  spdlog::logger& log_;
  const sigset_t signals_;
  const OnSignals& on_;
  std::atomic<bool> done_{false};
  std::thread thread_;
};

}  // namespace kvant::daemon
