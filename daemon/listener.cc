#include "daemon/listener.h"

#include <cerrno>
#include <string>
#include <utility>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "protocol/socket_address.h"
#include "protocol/system_error.h"

namespace kvant::daemon {
namespace {

using protocol::SystemError;

constexpr mode_t kSocketMode = 0660;
constexpr int kBacklog = 128;

Error Occupied(const std::string& path) {
  return {ErrorCode::kSystem, "listen at \"" + path + "\": another daemon answers there"};
}

std::string LockPath(const std::string& path) { return path + ".lock"; }

/// Holds the lock of `path`, or says that another daemon does. A lock ends with its process, so a lock file that was left
/// behind is free. Between opening and locking its last owner may have removed the file: then the lock is worth nothing.
Result<protocol::UniqueFd> TakeLock(const std::string& path) {
  const std::string lock_path = LockPath(path);
  for (int attempt = 0; attempt < 100; ++attempt) {
    protocol::UniqueFd lock(::open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!lock.valid()) {
      const int error = errno;
      return SystemError(
          "listen at \"" + path + "\": " + (error == ENOENT ? "its directory does not exist" : "open " + lock_path), error);
    }
    if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
      const int error = errno;
      if (error == EWOULDBLOCK) return Occupied(path);
      return SystemError("listen at \"" + path + "\": lock " + lock_path, error);
    }
    struct stat held {};
    struct stat named {};
    if (::fstat(lock.get(), &held) == 0 && ::stat(lock_path.c_str(), &named) == 0 && held.st_ino == named.st_ino &&
        held.st_dev == named.st_dev) {
      return lock;
    }
  }
  return Error{ErrorCode::kSystem, "listen at \"" + path + "\": the lock file " + lock_path + " keeps vanishing"};
}

/// Removes a socket that nobody listens on. Requires: the lock of `path` is held.
Result<void> RemoveStale(const std::string& path) {
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0) {
    if (errno == ENOENT) return {};
    return SystemError("listen at \"" + path + "\"", errno);
  }
  if (!S_ISSOCK(status.st_mode)) {
    return Error{ErrorCode::kSystem, "listen at \"" + path + "\": a file that is not a socket is in the way"};
  }
  // The lock of a daemon that was started without one, or under another name of this path, tells nothing: ask the socket.
  // A daemon that accepts nobody at present, or not this user, is one all the same.
  if (auto peer = protocol::ConnectUnixSocket(path); peer || peer.error().code != ErrorCode::kDisconnected)
    return Occupied(path);
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) return SystemError("remove the stale socket \"" + path + "\"", errno);
  return {};
}

}  // namespace

Result<Listener> Listener::Open(const std::string& path) {
  auto lock = TakeLock(path);
  if (!lock) return lock.error();
  const auto failed = [&path](Error error) {
    ::unlink(LockPath(path).c_str());  // still held
    return error;
  };
  if (auto removed = RemoveStale(path); !removed) return failed(removed.error());
  auto socket = protocol::BindUnixSocket(path);
  if (!socket) return failed(socket.error());
  // Nobody can connect before listen, so there is no moment with the wrong mode.
  struct stat status {};
  if (::chmod(path.c_str(), kSocketMode) != 0 || ::lstat(path.c_str(), &status) != 0) {
    return failed(SystemError("set the mode of \"" + path + "\"", errno));
  }
  if (::listen(socket->get(), kBacklog) != 0) return failed(SystemError("listen at \"" + path + "\"", errno));
  return Listener(path, *std::move(lock), *std::move(socket), status.st_dev, status.st_ino);
}

Result<Listener> Listener::Adopt(const std::string& path, protocol::UniqueFd socket) {
  const int flags = ::fcntl(socket.get(), F_GETFL);
  if (flags < 0 || ::fcntl(socket.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return SystemError("take over the socket of \"" + path + "\"", errno);
  }
  struct stat status {};
  if (::lstat(path.c_str(), &status) != 0 || !S_ISSOCK(status.st_mode)) status = {};
  return Listener(path, protocol::UniqueFd(), std::move(socket), status.st_dev, status.st_ino);
}

Listener::Listener(std::string path, protocol::UniqueFd lock, protocol::UniqueFd socket, unsigned long device,
                   unsigned long inode)
    : path_(std::move(path)), lock_(std::move(lock)), socket_(std::move(socket)), device_(device), inode_(inode) {}

Listener::~Listener() {
  if (!socket_.valid() || leave_file_) return;  // not valid: moved from
  struct stat status {};
  if (::lstat(path_.c_str(), &status) == 0 && status.st_dev == device_ && status.st_ino == inode_) ::unlink(path_.c_str());
  if (lock_.valid()) ::unlink(LockPath(path_).c_str());  // still locked: TakeLock of a newcomer notices
}

}  // namespace kvant::daemon
