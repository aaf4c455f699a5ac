// The process that outlives the daemon's worker: it holds descriptors of all shared memory and of the socket, starts the worker
// again when that dies, and passes signals on. Maps nothing, reads no client's byte, has one thread.
#pragma once

#include <chrono>
#include <string>

#include <spdlog/logger.h>

#include "daemon/listener.h"

namespace kvant::daemon {

/// Exit codes by which holder and worker understand each other; the rest of kvantd's are the worker's own.
inline constexpr int kExitOk = 0;
inline constexpr int kExitFault = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitCannotServe = 3;
inline constexpr int kExitStateNotSaved = 5;  ///< ended as it was told to, but --state-dir is not up to date
inline constexpr int kExitHandedOver = 4;     ///< never the holder's: a new worker is to go on

struct HolderOptions {
  char** argv = nullptr;  ///< the worker's, too: it knows from its environment what it is
  /// A worker that dies within ten seconds is started again after a pause that doubles from 10 ms up to this.
  std::chrono::milliseconds longest_pause{1000};
};

/// Runs until the worker ends by itself, was told to, or cannot be started; the exit code of the process. The worker is the
/// program at the path this process was started from, looked up anew each time: a new version takes over so. Signals: SIGTERM
/// and SIGINT end worker and holder, SIGUSR2 hands over to a new worker, SIGHUP reaches the worker. A worker that has died
/// three times before it was ready is started without the memory that was held, for that may be why; after three more times
/// the holder gives up. When the holder dies the worker gets SIGTERM and ends. Requires: one thread.
int RunHolder(const HolderOptions& options, Listener listener, spdlog::logger& log);

}  // namespace kvant::daemon
