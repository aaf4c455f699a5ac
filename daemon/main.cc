// kvantd: the daemon in the foreground. Flags, signals, exit codes; no logic.
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <system_error>
#include <thread>

#include <pthread.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <CLI/CLI.hpp>

#include <kvant/daemon.h>

#include "daemon/holder/fd_store.h"
#include "daemon/holder/holder.h"
#include "daemon/listener.h"
#include "protocol/byte_size.h"
#include "protocol/socket_address.h"

namespace kvant {
namespace {

using daemon::kExitCannotServe;
using daemon::kExitFault;
using daemon::kExitOk;
using daemon::kExitUsage;

constexpr const char* kExitCodes =
    "Runs in the foreground and is ready when the socket accepts. SIGTERM or SIGINT ends it once the calls that wait are\n"
    "answered (--drain-timeout); a second one ends it at once. The work is done by a process of its own, which --holder\n"
    "starts again when it dies; SIGUSR2 replaces it by a new one from the same path, another version for instance.\n"
    "Exit codes: 0 ended by a signal; 1 the daemon failed while it ran; 2 wrong usage; 3 it could not serve the socket\n"
    "(another daemon answers there, path too long, directory missing, budget too small or beyond the machine's memory, no\n"
    "shared memory).";

struct DefaultSocket {
  std::string path;
  std::string directory;
};

/// $XDG_RUNTIME_DIR/kvant/kvantd.sock, or /run/kvant/kvantd.sock where there is no such directory.
DefaultSocket FindDefaultSocket() {
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  const std::string directory =
      (runtime != nullptr && *runtime != '\0' ? std::string(runtime) : std::string("/run")) + "/kvant";
  return {directory + "/kvantd.sock", directory};
}

/// Only the default's own directory is made; a directory that a user names must be there.
void MakeDefaultDirectory(const std::string& directory) {
  std::error_code ignored;  // the daemon will say that the directory is missing
  if (std::filesystem::create_directory(directory, ignored)) ::chmod(directory.c_str(), 0750);
}

/// Each client costs a descriptor, each slab two.
void RaiseDescriptorLimit(spdlog::logger& log) {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  if (limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) log.warn("cannot raise the limit of open files limit={}", limit.rlim_max);
}

/// Blocked in all threads, so that only the waiting one takes them.
sigset_t BlockEndSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGUSR2);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

/// How long a daemon that was told to end at once may take.
constexpr timespec kEndAtOnce{.tv_sec = 1, .tv_nsec = 0};

/// How the daemon ends when it is told to, and who is told of it.
struct Ending {
  std::shared_ptr<daemon::FdStore> store;  ///< null: nobody
  bool memory_stays = false;               ///< SIGTERM, too, leaves the memory to whoever holds it, who decides when it ends
};

/// Waits for signals on a thread of its own: the first drains the daemon, the second stops it, and a daemon that does not even
/// stop is left to the kernel. SIGUSR2 hands over. Ends when it is destroyed.
class SignalThread {
 public:
  SignalThread(Daemon& daemon, spdlog::logger& log, const sigset_t& signals, const Ending& ending)
      : daemon_(daemon), log_(log), signals_(signals), ending_(ending), thread_([this] { Run(); }) {}
  ~SignalThread() {
    done_.store(true);
    ::pthread_kill(thread_.native_handle(), SIGTERM);
    thread_.join();
  }
  SignalThread(const SignalThread&) = delete;
  SignalThread& operator=(const SignalThread&) = delete;

 private:
  void Run() {
    const int first = WaitForSignal();
    if (first == 0) return;
    if (ending_.store) ending_.store->Tell("STOPPING=1");
    if (first == SIGUSR2 && ending_.store) {
      daemon_.HandOver(daemon::kExitHandedOver);
    } else if (ending_.memory_stays) {
      daemon_.HandOver(daemon::kExitOk);
    } else {
      daemon_.Drain();
    }
    if (WaitForSignal() == 0) return;
    daemon_.Stop();
    while (::sigtimedwait(&signals_, nullptr, &kEndAtOnce) > 0 && !done_.load()) {
    }
    if (done_.load()) return;
    log_.error("the daemon does not stop");
    std::_Exit(daemon::kExitFault);
  }

  /// 0 if the daemon has ended meanwhile.
  int WaitForSignal() {
    int signal = 0;
    if (::sigwait(&signals_, &signal) != 0 || done_.load()) return 0;
    log_.info("ending signal={}", signal);
    return signal;
  }

  Daemon& daemon_;
  spdlog::logger& log_;
  const sigset_t signals_;
  const Ending ending_;
  std::atomic<bool> done_{false};
  std::thread thread_;
};

/// The holder's part; the exit code.
int Hold(char** argv, const std::string& socket, std::chrono::milliseconds longest_pause, spdlog::logger& log) {
  auto path = protocol::ParseSocketPath(socket);
  auto listener = path ? daemon::Listener::Open(*path) : Result<daemon::Listener>(path.error());
  if (!listener) {
    std::cerr << "kvantd: " << listener.error().message << '\n';
    return kExitCannotServe;
  }
  return daemon::RunHolder({.argv = argv, .longest_pause = longest_pause}, *std::move(listener), log);
}

int Main(int argc, char** argv) {
  const DefaultSocket default_socket = FindDefaultSocket();
  DaemonOptions options;
  std::string budget = "512MiB";
  std::int64_t lease_ms = options.lease.count();
  std::int64_t drain_ms = options.drain_timeout.count();
  std::int64_t spin_us = options.spin.count();
  std::string log_level = "info";
  std::int64_t restart_pause_ms = 1000;
  std::string holder = "on";
  options.socket = default_socket.path;

  CLI::App app{"kvantd: keeps compressed key/value caches of language models in shared memory and answers attention over them"};
  app.footer(kExitCodes);
  app.set_version_flag("--version", "kvantd " KVANT_VERSION);
  app.add_option("--socket", options.socket, "Where to listen: PATH or unix:PATH")->capture_default_str();
  app.add_option("--budget", budget, "Memory of all stores together, metadata included; KiB, MiB, GiB")->capture_default_str();
  app.add_option("--workers", options.workers, "Threads that seal blocks and help attend; 0: as many as cores")
      ->check(CLI::Range(std::size_t{0}, std::size_t{1024}))  // CLI11 takes -1 for the largest number of an unsigned option
      ->capture_default_str();
  app.add_option("--lease", lease_ms, "Milliseconds after which a client that hangs is dropped")
      ->check(CLI::Range(std::int64_t{10}, std::int64_t{86'400'000}))
      ->capture_default_str();
  app.add_option("--max-connections", options.max_connections, "Clients served at a time; more are refused")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1'000'000}))
      ->capture_default_str();
  app.add_option("--drain-timeout", drain_ms, "Milliseconds that calls which wait are given to end after SIGTERM")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{86'400'000}))
      ->capture_default_str();
  app.add_option(
         "--spin", spin_us,
         "Microseconds to look out for the next request before sleeping; takes a core while clients are busy, saves a wake-up "
         "per call. 0: sleep at once, which suits machines of few cores")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1'000'000}))
      ->capture_default_str();
  app.add_option("--holder", holder,
                 "What keeps the stores when the process that does the work dies: another one of kvantd (on), systemd's file "
                 "descriptor store, for units of Type=notify (systemd), nothing (off)")
      ->check(CLI::IsMember({"on", "off", "systemd"}))
      ->capture_default_str();
  app.add_option("--restart-pause", restart_pause_ms,
                 "Milliseconds that a process which dies again and again is left dead for at most (--holder on)")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{3'600'000}))
      ->capture_default_str();
  app.add_option("--log-level", log_level, "What is logged to stderr")
      ->check(CLI::IsMember({"debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (app.exit(error) != 0) return kExitUsage;
    if (std::cout.flush().good()) return kExitOk;  // help and version
    std::cerr << "kvantd: cannot write to standard output\n";
    return kExitFault;
  }
  if (options.socket.empty()) {  // the daemon itself would serve embedded clients alone
    std::cerr << "kvantd: --socket: no path is given\n";
    return kExitUsage;
  }
  auto budget_bytes = protocol::ParseByteSize(budget);
  if (!budget_bytes) {
    std::cerr << "kvantd: --budget: " << budget_bytes.error().message << '\n';
    return kExitUsage;
  }

  auto log = std::make_shared<spdlog::logger>("kvantd", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  log->set_level(spdlog::level::from_str(log_level));
  log->flush_on(spdlog::level::info);
  options.budget_bytes = *budget_bytes;
  options.lease = std::chrono::milliseconds(lease_ms);
  options.drain_timeout = std::chrono::milliseconds(drain_ms);
  options.spin = std::chrono::microseconds(spin_us);
  options.log = log;
  if (options.socket == default_socket.path) MakeDefaultDirectory(default_socket.directory);
  RaiseDescriptorLimit(*log);

  const bool is_worker = std::getenv(daemon::FdStore::kHolderVariable) != nullptr;
  if (holder == "on" && !is_worker) return Hold(argv, options.socket, std::chrono::milliseconds(restart_pause_ms), *log);

  const sigset_t end_signals = BlockEndSignals();
  Ending ending{.store = nullptr, .memory_stays = holder == "systemd"};
  if (holder != "off") {
    auto store = daemon::FdStore::Connect(is_worker ? daemon::FdStore::Where::kHolder : daemon::FdStore::Where::kSystemd, log);
    if (!store) {
      std::cerr << "kvantd: " << store.error().message << '\n';
      return kExitCannotServe;
    }
    ending.store = *store;
    options.keeper = *store;
    daemon::Inherited inherited = daemon::TakeInherited();
    options.listen_fd = inherited.listener.Release();
    for (protocol::UniqueFd& segment : inherited.segments) options.segments.push_back(segment.Release());
  }
  auto daemon = Daemon::Start(options);
  if (!daemon) {
    std::cerr << "kvantd: " << daemon.error().message << '\n';
    return kExitCannotServe;
  }
  if (ending.store) ending.store->Tell("READY=1");
  Result<void> ended;
  {
    const SignalThread signal_thread(**daemon, *log, end_signals, ending);
    ended = (*daemon)->Wait();
  }
  if (!ended) {
    std::cerr << "kvantd: " << ended.error().message << '\n';
    return kExitFault;
  }
  return kExitOk;
}

}  // namespace
}  // namespace kvant

int main(int argc, char** argv) { return kvant::Main(argc, argv); }
