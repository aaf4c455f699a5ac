#include "daemon/log_limit.h"

#include <chrono>
#include <memory>
#include <optional>
#include <sstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>
#include <spdlog/spdlog.h>

#include "tests/daemon/rpc_client.h"

namespace kvant::daemon {
namespace {

using std::chrono::seconds;

TEST(LogLimitTest, LetsAFewOfEachIntervalThroughAndCountsTheRest) {
  const LogLimit::Clock::time_point start(std::chrono::hours(1));
  LogLimit limit(2, seconds(10));
  EXPECT_EQ(limit.Admit(start), 0u);
  EXPECT_EQ(limit.Admit(start + seconds(1)), 0u);
  EXPECT_EQ(limit.Admit(start + seconds(2)), std::nullopt);
  EXPECT_EQ(limit.Admit(start + seconds(9)), std::nullopt);
  EXPECT_EQ(limit.Admit(start + seconds(10)), 2u);
  EXPECT_EQ(limit.Admit(start + seconds(10)), 0u);
  EXPECT_EQ(limit.Admit(start + seconds(19)), std::nullopt);
}

TEST(LogLimitTest, AClientThatTurnsNamesRoundDoesNotFillTheLog) {
  std::ostringstream text;
  auto options = RpcOptions();
  options.log = std::make_shared<spdlog::logger>("test", std::make_shared<spdlog::sinks::ostream_sink_mt>(text));
  auto daemon = Daemon::Start(options).value();
  auto io = MakeLoop();
  RpcClient client(*io, daemon->Connect().value());
  client.Hello();
  StoreSpec other = RpcSpec();
  other.model = "another-model";
  constexpr int kTurns = 200;
  for (int i = 0; i < kTurns; ++i) client.OpenStore(i % 2 == 0 ? RpcSpec() : other);
  daemon->Stop();
  ASSERT_TRUE(daemon->Wait());
  std::size_t lines = 0;
  const std::string log = text.str();
  for (std::size_t at = log.find("meant another identity"); at != std::string::npos; ++lines) {
    at = log.find("meant another identity", at + 1);
  }
  EXPECT_GE(lines, 1u);
  EXPECT_LE(lines, kTurns / 4u);
}

}  // namespace
}  // namespace kvant::daemon
