// What the daemon survives, how many clients it takes, and how it ends.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "daemon/loop_queue.h"
#include "protocol/event_loop.h"
#include "protocol/segment_layout.h"
#include "protocol/wire.h"
#include "tests/daemon/rpc_client.h"

namespace kvant::daemon {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(LoopQueueTest, WorkThatThrowsIsReportedAndTheQueueGoesOn) {
  wire::EventLoop loop;
  std::vector<std::string> failures;
  LoopQueue queue(
      loop.port(), protocol::UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      [&](const kj::Exception& exception) { failures.emplace_back(exception.getDescription().cStr()); },
      [](const kj::Exception&) { FAIL() << "the queue has ended"; });
  std::vector<int> ran;
  bool done = false;
  queue.Post([&] { ran.push_back(1); });
  queue.Post([] { throw std::runtime_error("planted"); });
  queue.Post([&] { ran.push_back(2); });
  const auto limit = [] { return steady_clock::now() + std::chrono::seconds(20); };
  ASSERT_TRUE(loop.RunUntil([&] { return ran.size() == 2; }, limit()));
  queue.Post([&] { done = true; });  // another turn
  ASSERT_TRUE(loop.RunUntil([&] { return done; }, limit()));
  EXPECT_THAT(ran, ElementsAre(1, 2));
  EXPECT_THAT(failures, ElementsAre(HasSubstr("planted")));
}

/// Whether the daemon answers on a new connection.
bool Answers(kj::AsyncIoContext& io, Daemon& daemon) {
  RpcClient client(io, daemon.Connect().value());
  auto request = client.bootstrap().helloRequest();
  auto hello = request.initHello();
  hello.setProtocolVersion(wire::kProtocolVersion);
  hello.setSegmentLayoutVersion(protocol::kSegmentLayoutVersion);
  try {
    return client.Wait(request.send()).isOk();
  } catch (const kj::Exception& exception) {
    EXPECT_EQ(exception.getType(), kj::Exception::Type::DISCONNECTED);
    return false;
  }
}

TEST(ServerLifeTest, ConnectionsBeyondTheLimitAreClosedUntilOthersEnd) {
  auto options = RpcOptions();
  options.max_connections = 2;
  auto daemon = Daemon::Start(options).value();
  auto io = MakeLoop();
  auto first = std::make_unique<RpcClient>(*io, daemon->Connect().value());
  first->Hello();
  auto second = std::make_unique<RpcClient>(*io, daemon->Connect().value());
  second->Hello();
  EXPECT_FALSE(Answers(*io, *daemon));
  first->Wait(first->session().pingRequest().send());  // the others do not notice
  second.reset();
  const auto limit = steady_clock::now() + std::chrono::seconds(20);
  while (!Answers(*io, *daemon)) ASSERT_LT(steady_clock::now(), limit);
}

TEST(ServerLifeTest, DrainingEndsADaemonThatHasNothingToDo) {
  auto options = RpcOptions();
  options.drain_timeout = std::chrono::hours(1);
  auto daemon = Daemon::Start(options).value();
  auto io = MakeLoop();
  RpcClient client(*io, daemon->Connect().value());
  client.Hello();  // an idle session is no reason to wait
  daemon->Drain();
  EXPECT_TRUE(daemon->Wait());
}

TEST(ServerLifeTest, ADroppedClientFindsItsArenaRevoked) {
  auto options = RpcOptions();
  options.lease = milliseconds(50);
  auto daemon = Daemon::Start(options).value();
  auto io = MakeLoop();
  RpcClient client(*io, daemon->Connect().value());
  client.Hello();
  client.MakeArena(1 << 20);
  auto* header = reinterpret_cast<protocol::ArenaHeader*>(client.arena());
  const auto revoked = [&] { return std::atomic_ref<std::uint32_t>(header->revoked).load(std::memory_order_acquire); };
  EXPECT_EQ(revoked(), 0u);
  const auto limit = steady_clock::now() + std::chrono::seconds(20);
  while (revoked() == 0) {
    ASSERT_LT(steady_clock::now(), limit);
    std::this_thread::sleep_for(milliseconds(2));
  }
  EXPECT_EQ(revoked(), 1u);
}

TEST(ServerLifeTest, WhatTheMachineCannotGiveIsRefusedAtStart) {
  const auto refused = [](auto spoil) {
    auto options = RpcOptions();
    spoil(options);
    auto daemon = Daemon::Start(options);
    return daemon ? Error{ErrorCode::kInternal, "accepted"} : daemon.error();
  };
  const Error budget = refused([](DaemonOptions& o) { o.budget_bytes = std::numeric_limits<std::size_t>::max() / 2; });
  EXPECT_EQ(budget.code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(budget.message, HasSubstr("this machine has"));
  EXPECT_THAT(refused([](DaemonOptions& o) { o.max_connections = 0; }).message, HasSubstr("0 connections"));
  EXPECT_THAT(refused([](DaemonOptions& o) { o.drain_timeout = milliseconds(-1); }).message, HasSubstr("drain timeout"));
}

}  // namespace
}  // namespace kvant::daemon
