#include "daemon/holder/held.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace kvant::daemon {
namespace {

constexpr std::size_t kMostNameBytes = 64;

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= kMostNameBytes &&
         std::ranges::all_of(name, [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; });
}

/// The value of `key` in lines KEY=VALUE; empty if it is not there.
std::string_view ValueOf(std::string_view message, std::string_view key) {
  while (!message.empty()) {
    const std::string_view line = message.substr(0, message.find('\n'));
    message.remove_prefix(std::min(line.size() + 1, message.size()));
    if (line.size() > key.size() && line.substr(0, key.size()) == key && line[key.size()] == '=') {
      return line.substr(key.size() + 1);
    }
  }
  return {};
}

}  // namespace

std::optional<Notification> ReceiveNotification(int socket) {
  char text[Held::kMostBytes];
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  iovec into{.iov_base = text, .iov_len = sizeof text};
  msghdr header{};
  header.msg_iov = &into;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  ssize_t bytes = 0;
  do {
    bytes = ::recvmsg(socket, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (bytes < 0 && errno == EINTR);
  if (bytes <= 0) return std::nullopt;
  Notification received{
      .text = std::string(text, static_cast<std::size_t>(bytes)), .fd = {}, .truncated = (header.msg_flags & MSG_CTRUNC) != 0};
  const cmsghdr* const rights = CMSG_FIRSTHDR(&header);
  if (rights != nullptr && rights->cmsg_type == SCM_RIGHTS && rights->cmsg_len == CMSG_LEN(sizeof(int))) {
    int number = -1;
    std::memcpy(&number, CMSG_DATA(rights), sizeof number);
    received.fd = protocol::UniqueFd(number);
  }
  return received;
}

Held::Heard Held::Hear(std::string_view message, protocol::UniqueFd fd) {
  const std::string_view name = ValueOf(message, "FDNAME");
  if (fd.valid()) {
    const auto known = held_.find(name);
    if (ValueOf(message, "FDSTORE") != "1" || !IsName(name) || (known == held_.end() && held_.size() >= kMostHeld)) {
      return Heard::kRefused;
    }
    held_.insert_or_assign(std::string(name), std::move(fd));
    return Heard::kStored;
  }
  if (ValueOf(message, "FDSTOREREMOVE") == "1") {
    const auto known = held_.find(name);
    if (known != held_.end()) held_.erase(known);
    return Heard::kRemoved;
  }
  if (ValueOf(message, "STATUS") == "begun") return Heard::kBegun;
  return ValueOf(message, "READY") == "1" ? Heard::kReady : Heard::kNothing;
}

}  // namespace kvant::daemon
