// The worker's side of a file descriptor store: systemd's, or that of kvantd's own holder, which speaks the same protocol
// (sd_notify(3), sd_listen_fds(3)).
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <spdlog/logger.h>

#include <kvant/result.h>

#include "daemon/memory/keeper.h"
#include "protocol/memfd.h"

namespace kvant::daemon {

/// A socket to whoever started this process. Sends wait a second at most; the first of a row that fail is logged, for the
/// daemon can serve all the same. Tell is for any thread.
class FdStore final : public Keeper {
 public:
  /// In a worker's environment: the number of its end of the holder's socket pair.
  static constexpr const char* kHolderVariable = "KVANT_HOLDER_FD";

  enum class Where { kHolder, kSystemd };
  /// Connects as the environment says: kHolderVariable, or NOTIFY_SOCKET. kInvalidArgument if that is not set, or no address;
  /// kSystem from the kernel. Removes the variable.
  static Result<std::shared_ptr<FdStore>> Connect(Where where, std::shared_ptr<spdlog::logger> log);

  /// "READY=1", "STOPPING=1", "WATCHDOG=1" or what else sd_notify(3) knows.
  void Tell(std::string_view message) noexcept;
  void Keep(int segment) noexcept override;
  void Release(int segment) noexcept override;
  void Ready() noexcept override { Tell("READY=1"); }
  void Alive() noexcept override { Tell("WATCHDOG=1"); }

 private:
  FdStore(protocol::UniqueFd socket, std::shared_ptr<spdlog::logger> log) : socket_(std::move(socket)), log_(std::move(log)) {}
  void Send(std::string_view message, int fd) noexcept;

  const protocol::UniqueFd socket_;
  const std::shared_ptr<spdlog::logger> log_;
  std::atomic<bool> failing_{false};
};

/// The name under which a segment is kept: its number among memory files, which no other has while it lives.
std::string SegmentName(int segment);

/// What a process was started with: descriptors that LISTEN_FDS and LISTEN_PID announce, those variables removed.
struct Inherited {
  protocol::UniqueFd listener;               ///< a listening unix socket; none if there was none
  std::vector<protocol::UniqueFd> segments;  ///< memory files, whatever is in them
};
/// Everything else among them is closed.
Inherited TakeInherited();

}  // namespace kvant::daemon
