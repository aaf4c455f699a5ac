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

#include "protocol/byte_size.h"

namespace {

constexpr int kExitOk = 0;
constexpr int kExitFault = 1;
constexpr int kExitUsage = 2;
constexpr int kExitCannotServe = 3;

constexpr const char* kExitCodes =
    "Runs in the foreground and is ready when the socket accepts. SIGTERM or SIGINT ends it once the calls that wait are\n"
    "answered (--drain-timeout); a second one ends it at once.\n"
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
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

/// How long a daemon that was told to end at once may take.
constexpr timespec kEndAtOnce{.tv_sec = 1, .tv_nsec = 0};

/// Waits for signals on a thread of its own: the first drains the daemon, the second stops it, and a daemon that does not even
/// stop is left to the kernel. Ends when it is destroyed.
class SignalThread {
 public:
  SignalThread(kvant::Daemon& daemon, spdlog::logger& log, sigset_t signals)
      : thread_([this, &daemon, &log, signals] {
          if (!WaitForSignal(signals, log)) return;
          daemon.Drain();
          if (!WaitForSignal(signals, log)) return;
          daemon.Stop();
          while (::sigtimedwait(&signals, nullptr, &kEndAtOnce) > 0 && !done_.load()) {
          }
          if (done_.load()) return;
          log.error("the daemon does not stop");
          std::_Exit(kExitFault);
        }) {}
  ~SignalThread() {
    done_.store(true);
    ::pthread_kill(thread_.native_handle(), SIGTERM);
    thread_.join();
  }
  SignalThread(const SignalThread&) = delete;
  SignalThread& operator=(const SignalThread&) = delete;

 private:
  /// False if the daemon has ended meanwhile.
  bool WaitForSignal(const sigset_t& signals, spdlog::logger& log) const {
    int signal = 0;
    if (::sigwait(&signals, &signal) != 0 || done_.load()) return false;
    log.info("ending signal={}", signal);
    return true;
  }

  std::atomic<bool> done_{false};
  std::thread thread_;
};

}  // namespace

int main(int argc, char** argv) {
  const DefaultSocket default_socket = FindDefaultSocket();
  kvant::DaemonOptions options;
  std::string budget = "512MiB";
  std::int64_t lease_ms = options.lease.count();
  std::int64_t drain_ms = options.drain_timeout.count();
  std::int64_t spin_us = options.spin.count();
  std::string log_level = "info";
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
  app.add_option(
      "--metrics-listen", options.metrics,
      "Where Prometheus may ask for /metrics: unix:PATH, or 127.0.0.1:PORT (any user of this machine can read that)");
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
  auto budget_bytes = kvant::protocol::ParseByteSize(budget);
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

  const sigset_t end_signals = BlockEndSignals();
  auto daemon = kvant::Daemon::Start(options);
  if (!daemon) {
    std::cerr << "kvantd: " << daemon.error().message << '\n';
    return kExitCannotServe;
  }
  kvant::Result<void> ended;
  {
    const SignalThread signal_thread(**daemon, *log, end_signals);
    ended = (*daemon)->Wait();
  }
  if (!ended) {
    std::cerr << "kvantd: " << ended.error().message << '\n';
    return kExitFault;
  }
  return kExitOk;
}
