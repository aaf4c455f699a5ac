// The beginning of a connection: versions, boot token, one session, who may administer.
#include <cstdint>
#include <filesystem>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <kvant/daemon.h>

#include "protocol/segment_layout.h"
#include "protocol/socket_address.h"
#include "protocol/wire.h"
#include "tests/daemon/rpc_client.h"

namespace kvant::daemon {
namespace {

using ::testing::HasSubstr;

class HelloTest : public ::testing::Test {
 protected:
  std::unique_ptr<Daemon> daemon_ = Daemon::Start(RpcOptions()).value();
  std::unique_ptr<kj::AsyncIoContext> io_ = MakeLoop();
  RpcClient client_{*io_, daemon_->Connect().value()};

  Error Refused(std::uint32_t protocol, std::uint32_t layout, std::uint64_t boot_token) {
    auto request = client_.bootstrap().helloRequest();
    auto hello = request.initHello();
    hello.setProtocolVersion(protocol);
    hello.setSegmentLayoutVersion(layout);
    hello.setBootToken(boot_token);
    auto response = client_.Wait(request.send());
    if (response.isOk()) return {ErrorCode::kInternal, "accepted"};
    return wire::ReadError(response.getError());
  }
};

TEST_F(HelloTest, SaysWhoTheDaemonIs) {
  auto request = client_.bootstrap().helloRequest();
  request.initHello().setProtocolVersion(wire::kProtocolVersion);
  request.getHello().setSegmentLayoutVersion(protocol::kSegmentLayoutVersion);
  auto response = client_.Wait(request.send());
  ASSERT_TRUE(response.isOk());
  const auto info = response.getOk().getDaemon();
  EXPECT_NE(info.getBootToken(), 0u);
  EXPECT_EQ(info.getPid(), static_cast<std::uint64_t>(::getpid()));
  EXPECT_EQ(info.getBudgetBytes(), std::uint64_t{8} << 20);
  EXPECT_EQ(info.getLeaseMs(), static_cast<std::uint64_t>(RpcOptions().lease.count()));
  EXPECT_EQ(info.getProtocolVersion(), wire::kProtocolVersion);
}

TEST_F(HelloTest, AnotherVersionIsRefusedNamingBoth) {
  const Error protocol = Refused(77, protocol::kSegmentLayoutVersion, 0);
  EXPECT_EQ(protocol.code, ErrorCode::kVersionMismatch);
  EXPECT_THAT(protocol.message, HasSubstr("protocol 77"));
  EXPECT_THAT(protocol.message, HasSubstr("protocol " + std::to_string(wire::kProtocolVersion) + " "));
  const Error layout = Refused(wire::kProtocolVersion, 99, 0);
  EXPECT_EQ(layout.code, ErrorCode::kVersionMismatch);
  EXPECT_THAT(layout.message, HasSubstr("segment layout 99"));
}

TEST_F(HelloTest, TheBootTokenOfAnotherDaemonIsStale) {
  const Error error = Refused(wire::kProtocolVersion, protocol::kSegmentLayoutVersion, 12345);
  EXPECT_EQ(error.code, ErrorCode::kStaleDaemon);
  EXPECT_THAT(error.message, HasSubstr("12345"));
}

TEST_F(HelloTest, TheRightBootTokenIsAccepted) {
  client_.Hello();
  client_.DropSession();
  auto request = client_.bootstrap().helloRequest();
  auto hello = request.initHello();
  hello.setProtocolVersion(wire::kProtocolVersion);
  hello.setSegmentLayoutVersion(protocol::kSegmentLayoutVersion);
  hello.setBootToken(client_.boot_token());
  EXPECT_TRUE(client_.Wait(request.send()).isOk());
}

TEST_F(HelloTest, OneSessionAtATimeOnAConnection) {
  client_.Hello();
  const Error second = Refused(wire::kProtocolVersion, protocol::kSegmentLayoutVersion, 0);
  EXPECT_EQ(second.code, ErrorCode::kInvalidArgument);
  client_.DropSession();
  EXPECT_EQ(Refused(wire::kProtocolVersion, protocol::kSegmentLayoutVersion, 0).message, "accepted");
}

TEST_F(HelloTest, TwoDaemonsHaveDifferentBootTokens) {
  client_.Hello();
  auto other = Daemon::Start(RpcOptions()).value();
  RpcClient second(*io_, other->Connect().value());
  second.Hello();
  EXPECT_NE(client_.boot_token(), second.boot_token());
}

TEST_F(HelloTest, TheOwnUidMayAdminister) {
  auto request = client_.bootstrap().adminRequest();
  request.initHello().setProtocolVersion(wire::kProtocolVersion);
  request.getHello().setSegmentLayoutVersion(protocol::kSegmentLayoutVersion);
  auto response = client_.Wait(request.send());
  ASSERT_TRUE(response.isOk());
  EXPECT_EQ(response.getOk().getDaemon().getPid(), static_cast<std::uint64_t>(::getpid()));
}

// The kernel notes the credentials of the thread that connects.
TEST_F(HelloTest, AnotherUidMayNotAdminister) {
  if (::geteuid() != 0) GTEST_SKIP() << "only root can become another user";
  char directory[] = "/tmp/kvant-hello-XXXXXX";
  ASSERT_NE(::mkdtemp(directory), nullptr);
  ASSERT_EQ(::chmod(directory, 0755), 0);
  const std::string path = std::string(directory) + "/s";
  auto daemon = Daemon::Start(RpcOptions(path)).value();
  ASSERT_EQ(::chmod(path.c_str(), 0666), 0);
  Error error{ErrorCode::kInternal, "accepted"};
  bool session = false;
  std::thread stranger([&] {
    constexpr long kNobody = 65534;
    ASSERT_EQ(::syscall(SYS_setresuid, kNobody, kNobody, kNobody), 0);  // this thread only
    const auto io = MakeLoop();
    auto socket = protocol::ConnectUnixSocket(path);
    ASSERT_TRUE(socket) << socket.error().message;
    RpcClient client(*io, socket->Release());
    auto request = client.bootstrap().adminRequest();
    request.initHello().setProtocolVersion(wire::kProtocolVersion);
    request.getHello().setSegmentLayoutVersion(protocol::kSegmentLayoutVersion);
    auto response = client.Wait(request.send());
    if (response.isError()) error = wire::ReadError(response.getError());
    client.Hello();
    session = true;
  });
  stranger.join();
  EXPECT_EQ(error.code, ErrorCode::kPermissionDenied);
  EXPECT_THAT(error.message, HasSubstr("65534"));
  EXPECT_TRUE(session);
  daemon.reset();
  std::filesystem::remove_all(directory);
}

}  // namespace
}  // namespace kvant::daemon
