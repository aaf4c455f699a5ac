#include "daemon/program/signal_thread.h"

#include <cstdlib>
#include <ctime>

#include <pthread.h>
#include <spdlog/spdlog.h>

#include "daemon/holder/holder.h"

namespace kvant::daemon {
namespace {

/// How long a daemon that was told to end at once may take.
constexpr timespec kEndAtOnce{.tv_sec = 1, .tv_nsec = 0};

}  // namespace

sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  for (const int signal : {SIGTERM, SIGINT, SIGUSR2, SIGHUP}) sigaddset(&signals, signal);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

SignalThread::SignalThread(Daemon& daemon, spdlog::logger& log, const sigset_t& signals, const OnSignals& on)
    : daemon_(daemon), log_(log), signals_(signals), on_(on), thread_([this] { Run(); }) {}

SignalThread::~SignalThread() {
  done_.store(true);
  ::pthread_kill(thread_.native_handle(), SIGTERM);
  thread_.join();
}

void SignalThread::Run() {
  const int first = WaitForEnd();
  if (first == 0) return;
  if (on_.store) on_.store->Tell("STOPPING=1");
  if (first == SIGUSR2 && on_.store) {
    daemon_.HandOver(kExitHandedOver, Daemon::Successor::kComes);
  } else if (on_.memory_stays) {
    daemon_.HandOver(kExitOk, Daemon::Successor::kMayNotCome);
  } else {
    daemon_.Drain();
  }
  if (WaitForEnd() == 0) return;
  daemon_.Stop();
  while (::sigtimedwait(&signals_, nullptr, &kEndAtOnce) > 0 && !done_.load()) {
  }
  if (done_.load()) return;
  log_.error("the daemon does not stop");
  std::_Exit(kExitFault);
}

/// The signal that tells the daemon to end; 0 if it has ended meanwhile.
int SignalThread::WaitForEnd() {
  for (;;) {
    int signal = 0;
    if (::sigwait(&signals_, &signal) != 0 || done_.load()) return 0;
    if (signal == SIGHUP && on_.reload) {
      on_.reload();
      continue;
    }
    log_.info("ending signal={}", signal);
    return signal;
  }
}

}  // namespace kvant::daemon
