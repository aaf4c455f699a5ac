// The daemon's socket file: taken over when its last owner died, refused when another daemon lives, removed at the end.
#pragma once

#include <string>

#include <kvant/result.h>

#include "protocol/memfd.h"

namespace kvant::daemon {

/// A listening unix socket at a path, and the lock that keeps two daemons from taking it at once. Movable; owned by the daemon.
class Listener {
 public:
  /// Listens at `path` with mode 0660. `path` is what protocol::ParseSocketPath gave.
  /// kSystem: another daemon answers there, something that is no socket lies there, the directory is missing, errno.
  static Result<Listener> Open(const std::string& path);

  /// Takes over a socket that listens already. The file at `path`, if it is one of a socket, counts as its own. kSystem from
  /// the kernel.
  static Result<Listener> Adopt(const std::string& path, protocol::UniqueFd socket);

  Listener(Listener&&) noexcept = default;
  Listener& operator=(Listener&&) noexcept = delete;
  /// Removes the socket file, if it is still this one, and the lock file; neither after LeaveFile.
  ~Listener();
  /// Others listen on.
  void LeaveFile() noexcept { leave_file_ = true; }

  /// Non-blocking; stays the listener's.
  [[nodiscard]] int fd() const noexcept { return socket_.get(); }
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  Listener(std::string path, protocol::UniqueFd lock, protocol::UniqueFd socket, unsigned long device, unsigned long inode);

  std::string path_;
  protocol::UniqueFd lock_;
  protocol::UniqueFd socket_;
  unsigned long device_;  // of the socket file we made
  unsigned long inode_;
  bool leave_file_ = false;
};

}  // namespace kvant::daemon
