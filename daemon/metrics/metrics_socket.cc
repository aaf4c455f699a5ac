#include "daemon/metrics/metrics_socket.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <utility>

#include "protocol/socket_address.h"
#include "protocol/system_error.h"

namespace kvant::daemon {
namespace {

constexpr int kBacklog = 16;
constexpr std::string_view kUnix = "unix:";

struct Host {
  std::string_view name;
  int family;
};
constexpr std::array<Host, 3> kHosts{{{"127.0.0.1", AF_INET}, {"localhost", AF_INET}, {"[::1]", AF_INET6}}};

Error Malformed(std::string_view address) {
  return {ErrorCode::kInvalidArgument, "listen for metrics at \"" + std::string(address) +
                                           "\": wanted is unix:PATH, or HOST:PORT with host 127.0.0.1, [::1] or localhost"};
}

union Address {
  sockaddr any;
  sockaddr_in v4;
  sockaddr_in6 v6;
};

}  // namespace

Result<MetricsSocket> MetricsSocket::Open(std::string_view address) {
  if (address.starts_with(kUnix)) {
    auto path = protocol::ParseSocketPath(address);
    if (!path) return path.error();
    auto listener = Listener::Open(*path);
    if (!listener) return listener.error();
    return MetricsSocket(std::string(address), *std::move(listener), protocol::UniqueFd());
  }
  for (const Host& host : kHosts) {
    if (!address.starts_with(host.name) || !address.substr(host.name.size()).starts_with(':')) continue;
    const std::string_view digits = address.substr(host.name.size() + 1);
    std::uint16_t port = 0;
    const auto [rest, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
    if (error != std::errc() || rest != digits.data() + digits.size()) return Malformed(address);
    const std::string what = "listen for metrics at \"" + std::string(address) + "\"";
    protocol::UniqueFd socket(::socket(host.family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!socket.valid()) return protocol::SystemError(what, errno);
    const int on = 1;
    ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);  // a daemon that starts again at once
    Address bound{};
    socklen_t bytes = 0;
    if (host.family == AF_INET) {
      bytes = sizeof bound.v4;
      bound.v4 = {
          .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {.s_addr = htonl(INADDR_LOOPBACK)}, .sin_zero = {}};
    } else {
      bytes = sizeof bound.v6;
      bound.v6.sin6_family = AF_INET6;
      bound.v6.sin6_port = htons(port);
      bound.v6.sin6_addr = in6addr_loopback;
    }
    if (::bind(socket.get(), &bound.any, bytes) != 0 || ::listen(socket.get(), kBacklog) != 0 ||
        ::getsockname(socket.get(), &bound.any, &bytes) != 0) {
      return protocol::SystemError(what, errno);
    }
    port = ntohs(host.family == AF_INET ? bound.v4.sin_port : bound.v6.sin6_port);
    return MetricsSocket(std::string(host.name) + ":" + std::to_string(port), std::nullopt, std::move(socket));
  }
  return Malformed(address);
}

}  // namespace kvant::daemon
