// kvantd: the daemon in the foreground. Flags and exit codes; no logic.
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <system_error>

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <CLI/CLI.hpp>

#include <kvant/daemon.h>

#include "daemon/holder/fd_store.h"
#include "daemon/holder/holder.h"
#include "daemon/listener.h"
#include "daemon/program/config_file.h"
#include "daemon/program/log_format.h"
#include "daemon/program/retention_flags.h"
#include "daemon/program/signal_thread.h"
#include "protocol/byte_size.h"
#include "protocol/socket_address.h"

namespace kvant {
namespace {

using daemon::kExitCannotServe;
using daemon::kExitFault;
using daemon::kExitOk;
using daemon::kExitStateNotSaved;
using daemon::kExitUsage;

constexpr const char* kExitCodes =
    "Runs in the foreground and is ready when the socket accepts. SIGTERM or SIGINT ends it once the calls that wait are\n"
    "answered (--drain-timeout); a second one ends it at once. The work is done by a process of its own, which --holder\n"
    "starts again when it dies; SIGUSR2 replaces it by a new one from the same path, another version for instance.\n"
    "Exit codes: 0 ended by a signal; 1 the daemon failed while it ran; 2 wrong usage; 3 it could not serve the socket\n"
    "(another daemon answers there, path too long, directory missing, budget too small or beyond the machine's memory, no\n"
    "shared memory, the state directory is another daemon's); 5 ended by a signal or by kvantctl drain, but --state-dir could\n"
    "not be written and is what it was before.";

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

DaemonOptions OptionsAt(const std::string& socket) {
  DaemonOptions options;
  options.socket = socket;
  return options;
}

/// What flags and configuration file say.
struct Settings {
  const DefaultSocket default_socket = FindDefaultSocket();
  DaemonOptions options = OptionsAt(default_socket.path);
  std::string config{};
  std::string budget = "512MiB";
  std::int64_t lease_ms = options.lease.count();
  std::int64_t drain_ms = options.drain_timeout.count();
  std::int64_t save_ms = options.save_timeout.count();
  std::int64_t spin_us = options.spin.count();
  daemon::RetentionFlags retention{};
  std::string log_level = "info";
  std::string log_format = "text";
  std::int64_t restart_pause_ms = 1000;
  std::string holder = "on";
};

void AddOptions(CLI::App& app, Settings& settings) {
  DaemonOptions& options = settings.options;
  app.footer(kExitCodes);
  app.set_version_flag("--version", "kvantd " KVANT_VERSION);
  app.add_option(
         "--config", settings.config,
         "A TOML file of flags without their dashes, such as budget = \"8GiB\"; flags given here go before it. SIGHUP reads "
         "it again: budget (only up), drain-timeout, log-level and max-connections then hold at once")
      ->configurable(false);
  app.add_option("--socket", options.socket, "Where to listen: PATH or unix:PATH")->capture_default_str();
  app.add_option("--budget", settings.budget, "Memory of all stores together, metadata included; KiB, MiB, GiB")
      ->capture_default_str();
  settings.retention.AddTo(app);
  app.add_option("--workers", options.workers, "Threads that seal blocks and help attend; 0: as many as cores")
      ->check(CLI::Range(std::size_t{0}, std::size_t{1024}))  // CLI11 takes -1 for the largest number of an unsigned option
      ->capture_default_str();
  app.add_option("--lease", settings.lease_ms, "Milliseconds after which a client that hangs is dropped")
      ->check(CLI::Range(std::int64_t{10}, std::int64_t{86'400'000}))
      ->capture_default_str();
  app.add_option(
      "--metrics-listen", options.metrics,
      "Where Prometheus may ask for /metrics: unix:PATH, or 127.0.0.1:PORT (any user of this machine can read that)");
  app.add_option("--max-connections", options.max_connections, "Clients served at a time; more are refused")
      ->check(CLI::Range(std::size_t{1}, std::size_t{1'000'000}))
      ->capture_default_str();
  app.add_option("--drain-timeout", settings.drain_ms, "Milliseconds that calls which wait are given to end after SIGTERM")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{86'400'000}))
      ->capture_default_str();
  app.add_option("--state-dir", options.state_dir,
                 "An existing folder that keeps sealed blocks between runs: read at the start, written when the daemon is "
                 "drained (SIGTERM, kvantctl drain)");
  app.add_option("--save-timeout", settings.save_ms, "Milliseconds that writing --state-dir may take; then its old file stays")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{86'400'000}))
      ->capture_default_str();
  app.add_option(
         "--spin", settings.spin_us,
         "Microseconds to look out for the next request before sleeping; takes a core while clients are busy, saves a wake-up "
         "per call. 0: sleep at once, which suits machines of few cores")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{1'000'000}))
      ->capture_default_str();
  app.add_option("--holder", settings.holder,
                 "What keeps the stores when the process that does the work dies: another one of kvantd (on), systemd's file "
                 "descriptor store, for units of Type=notify (systemd), nothing (off)")
      ->check(CLI::IsMember({"on", "off", "systemd"}))
      ->capture_default_str();
  app.add_option("--restart-pause", settings.restart_pause_ms,
                 "Milliseconds that a process which dies again and again is left dead for at most (--holder on)")
      ->check(CLI::Range(std::int64_t{0}, std::int64_t{3'600'000}))
      ->capture_default_str();
  app.add_option("--log-level", settings.log_level, "What is logged to stderr")
      ->check(CLI::IsMember({"debug", "info", "warn", "error", "off"}))
      ->capture_default_str();
  app.add_option("--log-format", settings.log_format, "Lines of the log: text, or a JSON object for each")
      ->check(CLI::IsMember({"text", "json"}))
      ->capture_default_str();
}

/// Flags, then what the configuration file has beyond them. An exit code where the program ends here, which it has said why.
std::optional<int> ReadSettings(int argc, char** argv, Settings& settings) {
  CLI::App app{"kvantd: keeps compressed key/value caches of language models in shared memory and answers attention over them"};
  AddOptions(app, settings);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (app.exit(error) != 0) return kExitUsage;
    if (std::cout.flush().good()) return kExitOk;  // help and version
    std::cerr << "kvantd: cannot write to standard output\n";
    return kExitFault;
  }
  const auto wrong = [](const std::string& what) {
    std::cerr << "kvantd: " << what << '\n';
    return kExitUsage;
  };
  if (!settings.config.empty()) {
    if (auto applied = daemon::ApplyConfigFile(app, settings.config); !applied) return wrong(applied.error().message);
  }
  DaemonOptions& options = settings.options;
  if (options.socket.empty())
    return wrong("--socket: no path is given");  // the daemon itself would serve embedded clients alone
  auto budget_bytes = protocol::ParseByteSize(settings.budget);
  if (!budget_bytes) return wrong("--budget: " + budget_bytes.error().message);
  options.budget_bytes = *budget_bytes;
  options.lease = std::chrono::milliseconds(settings.lease_ms);
  options.drain_timeout = std::chrono::milliseconds(settings.drain_ms);
  options.save_timeout = std::chrono::milliseconds(settings.save_ms);
  options.spin = std::chrono::microseconds(settings.spin_us);
  if (auto read = settings.retention.Read(options); !read) return wrong(read.error().message);
  return std::nullopt;
}

/// SIGHUP.
void Reload(int argc, char** argv, Daemon& daemon, spdlog::logger& log) {
  Settings settings;
  if (ReadSettings(argc, argv, settings)) {
    log.error("configuration not reloaded, nothing has changed path={}", settings.config);
    return;
  }
  log.set_level(spdlog::level::from_str(settings.log_level));
  daemon.SetLimits({.budget_bytes = settings.options.budget_bytes,
                    .max_connections = settings.options.max_connections,
                    .drain_timeout = settings.options.drain_timeout});
}

int Main(int argc, char** argv) {
  Settings settings;
  if (const auto code = ReadSettings(argc, argv, settings)) return *code;
  DaemonOptions& options = settings.options;

  auto log = std::make_shared<spdlog::logger>("kvantd", std::make_shared<spdlog::sinks::stderr_sink_mt>());
  log->set_level(spdlog::level::from_str(settings.log_level));
  log->set_formatter(
      daemon::MakeLogFormatter(settings.log_format == "json" ? daemon::LogFormat::kJson : daemon::LogFormat::kText));
  log->flush_on(spdlog::level::info);
  options.log = log;
  if (options.socket == settings.default_socket.path) MakeDefaultDirectory(settings.default_socket.directory);
  RaiseDescriptorLimit(*log);

  const bool is_worker = std::getenv(daemon::FdStore::kHolderVariable) != nullptr;
  if (settings.holder == "on" && !is_worker) {
    return Hold(argv, options.socket, std::chrono::milliseconds(settings.restart_pause_ms), *log);
  }

  const sigset_t signals = daemon::BlockSignals();
  daemon::OnSignals on_signals{.store = nullptr, .memory_stays = !is_worker && settings.holder == "systemd"};
  if (is_worker || settings.holder == "systemd") {
    auto store = daemon::FdStore::Connect(is_worker ? daemon::FdStore::Where::kHolder : daemon::FdStore::Where::kSystemd, log);
    if (!store) {
      std::cerr << "kvantd: " << store.error().message << '\n';
      return kExitCannotServe;
    }
    on_signals.store = *store;
    options.keeper = *store;
    options.upgrade = [] { ::kill(::getpid(), SIGUSR2); };  // one way to hand over, whoever asks
    (*store)->Tell("STATUS=begun");                         // from here on what is held may be why it ends
    daemon::Inherited inherited = daemon::TakeInherited();
    options.listen_fd = inherited.listener.Release();
    for (protocol::UniqueFd& segment : inherited.segments) options.segments.push_back(segment.Release());
  }
  auto daemon = Daemon::Start(options);
  if (!daemon) {
    std::cerr << "kvantd: " << daemon.error().message << '\n';
    return kExitCannotServe;
  }
  if (!settings.config.empty()) {
    on_signals.reload = [&] { Reload(argc, argv, **daemon, *log); };
  }
  Result<void> ended;
  {
    const daemon::SignalThread signal_thread(**daemon, *log, signals, on_signals);
    ended = (*daemon)->Wait();
  }
  if (!ended) {
    std::cerr << "kvantd: " << ended.error().message << '\n';
    return ended.error().code == ErrorCode::kInternal ? kExitFault : kExitStateNotSaved;
  }
  return kExitOk;
}

}  // namespace
}  // namespace kvant

int main(int argc, char** argv) { return kvant::Main(argc, argv); }
