// Addresses as users write them. Binding and connecting are tested with the daemon's listener.
#include "protocol/socket_address.h"

#include <string>
#include <string_view>

#include <gmock/gmock.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

namespace kvant::protocol {
namespace {

using ::testing::HasSubstr;

TEST(SocketAddressTest, BothFormsNameAPath) {
  EXPECT_EQ(*ParseSocketPath("/run/kvant/kvantd.sock"), "/run/kvant/kvantd.sock");
  EXPECT_EQ(*ParseSocketPath("unix:/run/kvant/kvantd.sock"), "/run/kvant/kvantd.sock");
  EXPECT_EQ(*ParseSocketPath("unix:relative.sock"), "relative.sock");
  EXPECT_EQ(*ParseSocketPath("unix:unix:x"), "unix:x");
}

TEST(SocketAddressTest, PathsThatNoSocketCanHaveAreRefused) {
  EXPECT_EQ(ParseSocketPath("").error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(ParseSocketPath("unix:").error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(ParseSocketPath(std::string_view("a\0b", 3)).error().code, ErrorCode::kInvalidArgument);
  EXPECT_TRUE(ParseSocketPath(std::string(107, 'p')));
  const Error error = ParseSocketPath(std::string(108, 'p')).error();
  EXPECT_THAT(error.message, HasSubstr("108 bytes"));
  EXPECT_THAT(error.message, HasSubstr("107"));
}

TEST(ConnectUnixSocketTest, WaitsForAFullQueueAsLongAsItMay) {
  char directory[] = "/tmp/kvant-socket-XXXXXX";
  ASSERT_NE(::mkdtemp(directory), nullptr);
  const std::string path = std::string(directory) + "/s";
  auto listening = BindUnixSocket(path);
  ASSERT_TRUE(listening) << listening.error().message;
  ASSERT_EQ(::listen(listening->get(), 0), 0);
  std::vector<UniqueFd> queue;
  std::optional<Error> full;
  while (!full && queue.size() < 100) {
    auto connected = ConnectUnixSocket(path);
    if (connected) {
      queue.push_back(std::move(*connected));
    } else {
      full = connected.error();
    }
  }
  ASSERT_TRUE(full) << "the queue is never full";
  EXPECT_EQ(full->code, ErrorCode::kDeadlineExceeded) << full->message;
  std::thread accepting([&] {
    pollfd ready{.fd = listening->get(), .events = POLLIN, .revents = 0};
    ::poll(&ready, 1, 10000);
    const UniqueFd accepted(::accept(listening->get(), nullptr, nullptr));
  });
  const auto connected = ConnectUnixSocket(path, std::chrono::seconds(20));
  EXPECT_TRUE(connected) << connected.error().message;
  accepting.join();
  ::unlink(path.c_str());
  ::rmdir(directory);
}

}  // namespace
}  // namespace kvant::protocol
