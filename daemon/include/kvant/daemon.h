// The daemon as a library: kvantd runs it in the foreground, `embedded:` clients and tests run it inside their process.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <kvant/eviction.h>
#include <kvant/result.h>

namespace spdlog {
class logger;
}
namespace kvant::quantizers {
class Registry;
}
namespace kvant::daemon {
class Keeper;
}

namespace kvant {

struct DaemonOptions {
  std::string socket;   ///< PATH or unix:PATH; empty: no socket, only Daemon::Connect
  std::string metrics;  ///< where Prometheus may ask: unix:PATH, HOST:PORT of this machine; empty: nowhere
  /// An existing folder that keeps sealed blocks from one run to the next: read at the start, written by Drain. Empty: none.
  std::string state_dir;
  std::chrono::milliseconds save_timeout{60000};      ///< how long Drain may take to write that
  std::size_t budget_bytes = std::size_t{512} << 20;  ///< of all stores together, metadata included
  EvictionKind eviction = EvictionKind::kLru;         ///< which of the blocks that nobody holds goes first
  /// Planes of their codes that blocks of the colder half keep when room is needed, before any block goes. For codecs with
  /// planes=1; blocks of others stay whole. 0: all stay whole. Not with EvictionKind::kNone.
  std::size_t demote_to = 0;
  std::chrono::milliseconds ttl{0};  ///< blocks that nobody uses so long go; 0: when room is needed
  /// Peers by uid. A tenant's stores, sequences and names are there for itself alone; who is not named is a tenant of his own.
  std::map<std::uint32_t, std::string> tenants;
  std::map<std::string, std::size_t> quotas;             ///< by tenant: most bytes of all its stores, records included
  std::size_t workers = 0;                               ///< threads that seal and help attend; 0: the number of cores
  std::size_t arena_limit_bytes = std::size_t{4} << 30;  ///< most arena bytes of one connection
  std::size_t arena_total_bytes = 0;                     ///< and of all connections; 0: half of the machine's memory
  std::size_t max_connections = 1024;                    ///< more are refused: closed at once, counted and logged
  std::chrono::milliseconds lease{10000};                ///< a client whose heartbeat stands still this long is dropped
  std::chrono::milliseconds drain_timeout{5000};         ///< how long Drain lets calls run on
  /// How long the loop looks out for the next request before it sleeps; 0: sleep at once. Takes a core while clients are busy,
  /// so it is for machines with cores to spare: on two cores it would take one from the engine or from the helpers of
  /// attention.
  std::chrono::microseconds spin{0};
  const quantizers::Registry* codecs = nullptr;  ///< null: the built-in ones; outlives the daemon
  std::shared_ptr<spdlog::logger> log;           ///< null: silent

  // What a daemon before this one left. Descriptors become the daemon's own when Start succeeds.
  int listen_fd = -1;                      ///< listens at `socket` already, and is served instead of a new socket there
  std::shared_ptr<daemon::Keeper> keeper;  ///< is told of memory that is to outlive the process; null: none is
  std::function<void()> upgrade{};         ///< an operator asks for a successor (on the daemon's thread); empty: refused
  std::vector<int> segments;               ///< manifests and slabs to serve again, in any order; others are released
};

/// What can change while a daemon runs.
struct DaemonLimits {
  std::size_t budget_bytes = 0;
  std::size_t max_connections = 0;
  std::chrono::milliseconds drain_timeout{0};
};

/// Runs the whole daemon on a thread of its own plus workers. Thread-safe. Destruction stops it.
class Daemon {
 public:
  /// Returns once the socket accepts. kSystem or kInvalidArgument name the socket and the reason
  /// (another daemon answers there, path too long, directory missing).
  static Result<std::unique_ptr<Daemon>> Start(DaemonOptions options);
  ~Daemon();
  Daemon(const Daemon&) = delete;
  Daemon& operator=(const Daemon&) = delete;

  /// One end of a socket pair whose other end the daemon serves; the caller owns the descriptor.
  Result<int> Connect();

  /// Asks the daemon to end once the calls that wait (for encodings, for long attention) are answered, at the latest after
  /// DaemonOptions::drain_timeout, when what still runs is refused; then the state is saved. New connections are not accepted
  /// from now on. Returns at once; may be called on any thread.
  void Drain() noexcept;
  /// Sets what DaemonOptions has too, soon; returns at once. A budget that is smaller than the present one, or larger than the
  /// machine's memory, stays as it is, and the log says so. May be called on any thread.
  void SetLimits(const DaemonLimits& limits) noexcept;
  enum class Successor { kComes, kMayNotCome };
  /// As Drain, for a successor that takes over what `keeper` holds and the socket: the process ends with `exit_code` then, at
  /// once, without destructors, and the stores lie in their memory as they were. Where it may not come the state is saved
  /// before. May be called on any thread.
  void HandOver(int exit_code, Successor successor) noexcept;
  /// Asks the daemon to end now, without saving its state; returns at once. May be called on any thread.
  void Stop() noexcept;
  /// Waits until the daemon has ended, by Drain, by Stop or by a fault (kInternal). Other errors: it ended as it was told to,
  /// but the state was not saved.
  Result<void> Wait();

 private:
  struct Impl;
  explicit Daemon(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace kvant
