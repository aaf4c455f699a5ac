// The socket file: who may take it, what is left behind, and how sizes and paths are written.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <kvant/daemon.h>

#include "daemon/listener.h"
#include "protocol/socket_address.h"
#include "tests/daemon/rpc_client.h"

namespace kvant::daemon {
namespace {

using ::testing::HasSubstr;

class ListenerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/kvant-listener-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    directory_ = name;
    path_ = directory_ + "/s.sock";
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }
  [[nodiscard]] std::size_t Files() const {
    return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator(directory_), {}));
  }

  std::string directory_;
  std::string path_;
};

TEST_F(ListenerTest, AcceptsWithMode0660AndLeavesNothingBehind) {
  {
    auto daemon = Daemon::Start(RpcOptions("unix:" + path_));
    ASSERT_TRUE(daemon) << daemon.error().message;
    struct stat status {};
    ASSERT_EQ(::stat(path_.c_str(), &status), 0);
    EXPECT_TRUE(S_ISSOCK(status.st_mode));
    EXPECT_EQ(status.st_mode & 07777, 0660u);
    const auto loop = MakeLoop();
    auto socket = protocol::ConnectUnixSocket(path_);
    ASSERT_TRUE(socket) << socket.error().message;
    RpcClient client(*loop, socket->Release());
    client.Hello();
  }
  EXPECT_EQ(Files(), 0u);
  EXPECT_EQ(protocol::ConnectUnixSocket(path_).error().code, ErrorCode::kDisconnected);
}

TEST_F(ListenerTest, ASecondDaemonIsRefusedAndTheFirstServesOn) {
  auto first = Daemon::Start(RpcOptions(path_)).value();
  auto second = Daemon::Start(RpcOptions(path_));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kSystem);
  EXPECT_THAT(second.error().message, HasSubstr("another daemon answers"));
  EXPECT_THAT(second.error().message, HasSubstr(path_));
  EXPECT_TRUE(protocol::ConnectUnixSocket(path_));
}

// Whoever listens there, with our lock or without it.
TEST_F(ListenerTest, AForeignListenerIsNotTakenOver) {
  auto foreign = protocol::BindUnixSocket(path_).value();
  ASSERT_EQ(::listen(foreign.get(), 1), 0);
  auto refused = Listener::Open(path_);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("another daemon answers"));
  EXPECT_EQ(Files(), 1u);  // no lock file stays
}

TEST_F(ListenerTest, AStaleSocketIsTakenOver) {
  const pid_t child = ::fork();
  if (child == 0) {
    auto listener = Listener::Open(path_);
    ::_exit(listener ? 0 : 1);  // without its destructor, as a killed process
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_EQ(status, 0);
  EXPECT_EQ(Files(), 2u);  // socket and lock file stayed
  const Error nobody = protocol::ConnectUnixSocket(path_).error();
  EXPECT_EQ(nobody.code, ErrorCode::kDisconnected);
  EXPECT_THAT(nobody.message, HasSubstr("left its socket"));
  EXPECT_THAT(nobody.message, HasSubstr("ECONNREFUSED"));
  {
    auto daemon = Daemon::Start(RpcOptions(path_));
    ASSERT_TRUE(daemon) << daemon.error().message;
    EXPECT_TRUE(protocol::ConnectUnixSocket(path_));
  }
  EXPECT_EQ(Files(), 0u);
}

TEST_F(ListenerTest, OfManyThatStartAtOnceOneWins) {
  for (int round = 0; round < 20; ++round) {
    std::vector<std::unique_ptr<Result<Listener>>> outcomes(8);
    std::vector<std::thread> threads;
    for (auto& outcome : outcomes) {
      threads.emplace_back([&outcome, this] { outcome = std::make_unique<Result<Listener>>(Listener::Open(path_)); });
    }
    for (auto& thread : threads) thread.join();
    int winners = 0;
    for (const auto& outcome : outcomes) winners += outcome->has_value() ? 1 : 0;
    EXPECT_EQ(winners, 1);
    EXPECT_TRUE(protocol::ConnectUnixSocket(path_));
  }
}

TEST_F(ListenerTest, AFileInTheWayIsKept) {
  std::ofstream(path_) << "precious";
  auto refused = Listener::Open(path_);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("not a socket"));
  std::string content;
  std::ifstream(path_) >> content;
  EXPECT_EQ(content, "precious");
  EXPECT_EQ(Files(), 1u);
}

TEST_F(ListenerTest, AMissingDirectoryIsNamed) {
  auto refused = Daemon::Start(RpcOptions(directory_ + "/none/s.sock"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kSystem);
  EXPECT_THAT(refused.error().message, HasSubstr("its directory does not exist"));
}

TEST_F(ListenerTest, APathTooLongIsRefusedBeforeAnythingIsMade) {
  const std::string longest = directory_ + "/" + std::string(107 - directory_.size() - 1, 'x');
  EXPECT_TRUE(protocol::ParseSocketPath(longest));
  auto refused = Daemon::Start(RpcOptions(longest + "x"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(refused.error().message, HasSubstr("108 bytes"));
  EXPECT_EQ(protocol::ConnectUnixSocket(longest + "x").error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(Files(), 0u);
}

TEST(DaemonOptionsTest, SenselessOptionsAreRefused) {
  const auto refused = [](auto spoil) {
    DaemonOptions options = RpcOptions();
    spoil(options);
    auto daemon = Daemon::Start(options);
    return daemon ? Error{ErrorCode::kInternal, "started"} : daemon.error();
  };
  EXPECT_EQ(refused([](DaemonOptions& o) { o.budget_bytes = 1000; }).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused([](DaemonOptions& o) { o.lease = std::chrono::milliseconds(0); }).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused([](DaemonOptions& o) { o.spin = std::chrono::microseconds(-1); }).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused([](DaemonOptions& o) { o.workers = 100000; }).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused([](DaemonOptions& o) { o.socket = "unix:"; }).code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(refused([](DaemonOptions&) {}).message, "started");
}

TEST(DaemonOptionsTest, ASpinningDaemonAnswersAndStops) {
  DaemonOptions options = RpcOptions();
  options.spin = std::chrono::microseconds(200);
  auto daemon = Daemon::Start(options).value();
  const auto loop = MakeLoop();
  RpcClient client(*loop, daemon->Connect().value());
  client.Hello();
  for (int i = 0; i < 100; ++i) client.Wait(client.session().pingRequest().send());
  daemon->Stop();
  EXPECT_TRUE(daemon->Wait());
}

}  // namespace
}  // namespace kvant::daemon
