// What this machine takes for 64 bytes there and back: the reference for everything that goes over a socket.
#include <cerrno>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <sys/socket.h>
#include <unistd.h>

#include "tools/bench/step_latency.h"

namespace kvant::tools {
namespace {

Result<void> RoundTrips(int fd, std::size_t count, bool first, bool spin) {
  char message[64] = {};
  const int flags = spin ? MSG_DONTWAIT : 0;
  for (std::size_t i = 0; i < count; ++i) {
    for (const bool sending : {first, !first}) {
      ssize_t n = -1;
      do {
        n = sending ? ::send(fd, message, sizeof(message), MSG_NOSIGNAL) : ::recv(fd, message, sizeof(message), flags);
      } while (n < 0 && (errno == EINTR || errno == EAGAIN));
      if (n != sizeof(message)) return Error{ErrorCode::kSystem, "64 bytes over a socket pair: " + std::to_string(n)};
    }
  }
  return {};
}

Result<Spread> MeasurePair(std::size_t round_trips, bool spin) {
  int ends[2] = {-1, -1};
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return Error{ErrorCode::kSystem, "socketpair"};
  std::thread other([&] { static_cast<void>(RoundTrips(ends[1], round_trips, false, spin).has_value()); });
  std::vector<double> times(round_trips);
  Result<void> done;
  for (std::size_t i = 0; i < round_trips && done; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    done = RoundTrips(ends[0], 1, true, spin);
    times[i] = std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now() - begin).count();
  }
  ::shutdown(ends[0], SHUT_RDWR);
  other.join();
  ::close(ends[0]);
  ::close(ends[1]);
  if (!done) return done.error();
  return SpreadOf(times);
}

}  // namespace

Result<SocketLatency> MeasureSocket(std::size_t round_trips) {
  auto blocking = MeasurePair(round_trips, false);
  if (!blocking) return blocking.error();
  auto spinning = MeasurePair(round_trips, true);
  if (!spinning) return spinning.error();
  return SocketLatency{.blocking = *blocking, .spinning = *spinning};
}

}  // namespace kvant::tools
