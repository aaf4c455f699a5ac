#include "protocol/socket_address.h"

#include <cerrno>
#include <cstring>
#include <string>
#include <thread>

#include <sys/socket.h>
#include <sys/un.h>

#include "protocol/system_error.h"

namespace kvant::protocol {
namespace {

constexpr std::string_view kScheme = "unix:";
constexpr std::size_t kMaxPathBytes = sizeof(sockaddr_un::sun_path) - 1;

/// Requires: path.size() <= kMaxPathBytes.
sockaddr_un AddressOf(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

Result<UniqueFd> StreamSocket(const std::string& path) {
  // Both functions take any string: never write past sun_path.
  if (auto checked = ParseSocketPath(path); !checked) return checked.error();
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return SystemError("socket for \"" + path + "\"", errno);
  return fd;
}

}  // namespace

Result<std::string> ParseSocketPath(std::string_view address) {
  std::string_view path = address;
  if (path.starts_with(kScheme)) path.remove_prefix(kScheme.size());
  if (path.empty()) {
    return Error{ErrorCode::kInvalidArgument,
                 "socket address \"" + std::string(address) + "\" has no path (PATH or unix:PATH)"};
  }
  if (path.find('\0') != std::string_view::npos) {
    return Error{ErrorCode::kInvalidArgument, "socket address holds a NUL byte at " + std::to_string(path.find('\0'))};
  }
  if (path.size() > kMaxPathBytes) {
    return Error{ErrorCode::kInvalidArgument, "socket path \"" + std::string(path) +
                                                  "\" is too long: " + std::to_string(path.size()) +
                                                  " bytes, a unix socket takes " + std::to_string(kMaxPathBytes)};
  }
  return std::string(path);
}

Result<UniqueFd> ConnectUnixSocket(const std::string& path, std::chrono::nanoseconds patience) {
  auto fd = StreamSocket(path);
  if (!fd) return fd;
  const sockaddr_un address = AddressOf(path);
  const auto end = std::chrono::steady_clock::now() + patience;
  while (::connect(fd->get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    const int error = errno;
    if (error == EINTR) continue;
    if (error == EAGAIN && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      continue;
    }
    const char* meaning = error == ENOENT         ? "no daemon was started there"
                          : error == ECONNREFUSED ? "a daemon ended there and left its socket"
                          : error == EAGAIN       ? "the daemon there does not accept connections"
                                                  : "cannot connect";
    const ErrorCode code = error == EACCES || error == EPERM ? ErrorCode::kPermissionDenied
                           : error == EAGAIN                 ? ErrorCode::kDeadlineExceeded
                                                             : ErrorCode::kDisconnected;
    return Error{code, SystemError("connect to \"" + path + "\": " + meaning, error).message};
  }
  return fd;
}

Result<UniqueFd> BindUnixSocket(const std::string& path) {
  auto fd = StreamSocket(path);
  if (!fd) return fd;
  const sockaddr_un address = AddressOf(path);
  if (::bind(fd->get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    const int error = errno;
    return SystemError("bind \"" + path + "\"" + (error == ENOENT ? ": its directory does not exist" : ""), error);
  }
  return fd;
}

}  // namespace kvant::protocol
