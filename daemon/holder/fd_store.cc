#include "daemon/holder/fd_store.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <system_error>

#include <spdlog/spdlog.h>

#include "protocol/system_error.h"

namespace kvant::daemon {
namespace {

constexpr int kFirstInherited = 3;  // as sd_listen_fds(3) has it
constexpr timeval kPatience{.tv_sec = 1, .tv_usec = 0};

/// The number in a variable, which is removed.
std::optional<int> TakeNumber(const char* variable) {
  const char* text = std::getenv(variable);
  if (text == nullptr) return std::nullopt;
  int number = 0;
  const char* const end = text + std::strlen(text);
  const auto [rest, error] = std::from_chars(text, end, number);
  const bool good = error == std::errc() && rest == end && number >= 0;
  ::unsetenv(variable);
  return good ? std::optional(number) : std::nullopt;
}

Result<protocol::UniqueFd> ConnectToSystemd() {
  const char* const variable = std::getenv("NOTIFY_SOCKET");
  const std::string path = variable == nullptr ? "" : variable;
  ::unsetenv("NOTIFY_SOCKET");
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || (path.front() != '/' && path.front() != '@') || path.size() >= sizeof address.sun_path) {
    return Error{ErrorCode::kInvalidArgument, "connect to systemd: NOTIFY_SOCKET is \"" + path +
                                                  "\", no address; is this a unit of Type=notify? (--holder)"};
  }
  std::memcpy(address.sun_path, path.data(), path.size());
  if (path.front() == '@') address.sun_path[0] = '\0';  // no file: a name of the kernel's
  protocol::UniqueFd socket(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return protocol::SystemError("connect to systemd: socket", errno);
  const auto bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  if (::connect(socket.get(), reinterpret_cast<const sockaddr*>(&address), bytes) != 0) {
    return protocol::SystemError("connect to systemd at \"" + path + "\"", errno);
  }
  return socket;
}

}  // namespace

Result<std::shared_ptr<FdStore>> FdStore::Connect(Where where, std::shared_ptr<spdlog::logger> log) {
  protocol::UniqueFd socket;
  if (where == Where::kHolder) {
    const std::optional<int> number = TakeNumber(kHolderVariable);
    if (!number || ::fcntl(*number, F_SETFD, FD_CLOEXEC) != 0) {
      return Error{ErrorCode::kInvalidArgument, std::string("connect to the holder: ") + kHolderVariable + " names no socket"};
    }
    socket = protocol::UniqueFd(*number);
  } else {
    auto connected = ConnectToSystemd();
    if (!connected) return connected.error();
    socket = std::move(*connected);
  }
  if (::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &kPatience, sizeof kPatience) != 0) {
    return protocol::SystemError("connect to the descriptor store: set a deadline", errno);
  }
  return std::shared_ptr<FdStore>(new FdStore(std::move(socket), std::move(log)));
}

void FdStore::Tell(std::string_view message) noexcept { Send(message, -1); }

void FdStore::Keep(int segment) noexcept { Send("FDSTORE=1\nFDPOLL=0\nFDNAME=" + SegmentName(segment), segment); }

void FdStore::Release(int segment) noexcept { Send("FDSTOREREMOVE=1\nFDNAME=" + SegmentName(segment), -1); }

void FdStore::Send(std::string_view message, int fd) noexcept {
  iovec text{.iov_base = const_cast<char*>(message.data()), .iov_len = message.size()};
  msghdr header{};
  header.msg_iov = &text;
  header.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (fd >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* const rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(rights), &fd, sizeof fd);
  }
  ssize_t sent = 0;
  do {
    sent = ::sendmsg(socket_.get(), &header, MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  const bool failed = sent < 0;
  if (failing_.exchange(failed, std::memory_order_relaxed) || !failed || !log_) return;
  log_->error("the descriptor store does not take a message{} message=\"{}\" error=\"{}\"",
              fd >= 0 ? ", this memory will not outlive the process" : "", message.substr(0, message.find('\n')),
              std::generic_category().message(errno));
}

std::string SegmentName(int segment) {
  struct stat status {};
  ::fstat(segment, &status);
  return "kvant-" + std::to_string(status.st_ino);
}

Inherited TakeInherited() {
  Inherited inherited;
  const std::optional<int> process = TakeNumber("LISTEN_PID");
  const std::optional<int> count = TakeNumber("LISTEN_FDS");
  ::unsetenv("LISTEN_FDNAMES");
  if (process != ::getpid() || !count) return inherited;
  for (int fd = kFirstInherited; fd - kFirstInherited < *count; ++fd) {
    struct stat status {};
    if (::fcntl(fd, F_SETFD, FD_CLOEXEC) != 0 || ::fstat(fd, &status) != 0) continue;
    protocol::UniqueFd owned(fd);
    int listens = 0;
    socklen_t bytes = sizeof listens;
    if (S_ISREG(status.st_mode)) {
      inherited.segments.push_back(std::move(owned));
    } else if (S_ISSOCK(status.st_mode) && ::getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &bytes) == 0 && listens != 0) {
      inherited.listener = std::move(owned);
    }
  }
  return inherited;
}

}  // namespace kvant::daemon
