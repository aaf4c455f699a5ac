// Who is connected: accepted, served until their end, dropped when they hang.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string_view>

#include <kj/async-unix.h>
#include <kj/async.h>
#include <kj/io.h>

#include "daemon/daemon_log.h"
#include "daemon/serve/connection.h"
#include "daemon/serve/session.h"
#include "protocol/event_loop.h"

namespace kvant::daemon {

/// All on the loop's thread. A connection that fails is told, counted and dropped; the others go on. Destroying it ends all.
class Connections final : private kj::TaskSet::ErrorHandler {
 public:
  /// What is passed by reference outlives it; `facts` are what newcomers are told from then on. At most `most` are accepted.
  Connections(wire::EventLoop& loop, Services& services, const DaemonFacts& facts, DaemonLog& log,
              std::chrono::milliseconds lease, std::size_t most);
  ~Connections() noexcept(false) = default;
  Connections(const Connections&) = delete;
  Connections& operator=(const Connections&) = delete;

  /// A chain that ends only by its destruction. `listener`, a listening socket, does not block and outlives the chain.
  [[nodiscard]] kj::Promise<void> Accept(int listener);
  /// Serves a socket that has a peer, or refuses it.
  void Adopt(kj::AutoCloseFd socket);
  /// Drops who has an arena and gave no sign of life for a lease. Call it a few times per lease.
  void DropHung();

  [[nodiscard]] std::size_t count() const noexcept { return connections_.size(); }
  /// Those beyond it stay.
  void set_most(std::size_t most) noexcept { most_ = most; }

 private:
  kj::Promise<void> AcceptNext(int listener);
  void Drop(std::uint64_t connection);
  void Refuse(std::uint64_t Refusals::*reason, std::string_view why);
  void EndRefusals();
  void taskFailed(kj::Exception&& exception) override { log_.Report("a connection", exception); }

  wire::EventLoop& loop_;
  Services& services_;
  const DaemonFacts& facts_;
  DaemonLog& log_;
  const std::chrono::milliseconds lease_;
  std::size_t most_;

  std::optional<kj::UnixEventPort::FdObserver> newcomers_;
  std::uint64_t refused_in_a_row_ = 0;  // since the last that was accepted
  bool refusal_told_ = false;           // the log has the first of them
  std::chrono::steady_clock::time_point watched_ = std::chrono::steady_clock::now();
  std::uint64_t next_ = 1;
  std::map<std::uint64_t, std::unique_ptr<Connection>> connections_;
  kj::Own<kj::TaskSet> ends_;  // of each of the connections, which it goes before
};

}  // namespace kvant::daemon
