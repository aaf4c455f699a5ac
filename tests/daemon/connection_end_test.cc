// How connections end: by themselves, by force, by standing still; and what a client that scribbles over its arena can reach.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "protocol/segment_layout.h"
#include "protocol/wire.h"
#include "tests/daemon/rpc_client.h"

namespace kvant::daemon {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

class ConnectionEndTest : public ::testing::Test {
 protected:
  void Start(const DaemonOptions& options) {
    daemon_ = Daemon::Start(options).value();
    watcher_ = std::make_unique<RpcClient>(*io_, daemon_->Connect().value());
    auto request = watcher_->bootstrap().adminRequest();
    request.initHello().setProtocolVersion(wire::kProtocolVersion);
    request.getHello().setSegmentLayoutVersion(protocol::kSegmentLayoutVersion);
    admin_ = std::make_unique<wire::Admin::Client>(watcher_->Wait(request.send()).getOk().getAdmin());
  }
  struct Figures {
    std::uint64_t sessions, sequences, leases, arenas, arena_bytes, dropped;
  };
  Figures Stats() {
    auto response = watcher_->Wait(admin_->statsRequest().send());
    const auto stats = response.getStats();
    std::map<std::string, std::uint64_t> of;
    for (unsigned i = 0; i < stats.getFigures().size(); ++i) of[stats.getFigures()[i].getName()] = stats.getValues()[i];
    return {of.at("sessions"), of.at("sequences"),   of.at("leases"),
            of.at("arenas"),   of.at("arena_bytes"), of.at("dropped_clients")};
  }
  /// Polls until the session is gone; how long that took.
  milliseconds UntilGone(std::chrono::seconds patience) {
    const auto begin = steady_clock::now();
    while (Stats().sessions != 0 && steady_clock::now() - begin < patience) {
    }
    return std::chrono::duration_cast<milliseconds>(steady_clock::now() - begin);
  }
  /// A session that holds leases on two blocks; `socket` is its descriptor.
  std::unique_ptr<RpcClient> Holder(int socket) {
    auto client = std::make_unique<RpcClient>(*io_, socket);
    client->Hello();
    const RpcTail tail;
    const std::uint32_t arena = client->MakeArena(1 << 20);
    const std::uint64_t id = client->OpenSequence(client->OpenStore(tail.spec), arena, tail).getSequence();
    const std::vector<std::uint32_t> tokens(44, 3);
    auto advance = AdvanceRequest(*client, id, tokens);
    EXPECT_TRUE(client->Wait(advance.send()).getOutcomes()[0].getStatus().isOk());
    sequence_ = id;
    return client;
  }

  std::unique_ptr<kj::AsyncIoContext> io_ = MakeLoop();
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<RpcClient> watcher_;
  std::unique_ptr<wire::Admin::Client> admin_;
  std::uint64_t sequence_ = 0;
};

TEST_F(ConnectionEndTest, EverythingOfTheSessionIsFreed) {
  Start(RpcOptions());
  auto holder = Holder(daemon_->Connect().value());
  const Figures held = Stats();
  EXPECT_EQ(held.sessions, 1u);
  EXPECT_EQ(held.sequences, 1u);
  EXPECT_EQ(held.leases, 2u);
  EXPECT_EQ(held.arenas, 1u);
  EXPECT_EQ(held.arena_bytes, std::uint64_t{1} << 20);
  holder.reset();
  UntilGone(std::chrono::seconds(5));
  const Figures freed = Stats();
  EXPECT_EQ(freed.sessions, 0u);
  EXPECT_EQ(freed.sequences, 0u);
  EXPECT_EQ(freed.leases, 0u);
  EXPECT_EQ(freed.arenas, 0u);
  EXPECT_EQ(freed.arena_bytes, 0u);
  EXPECT_EQ(freed.dropped, 0u);
}

TEST_F(ConnectionEndTest, ASessionEndsWithCallsInFlight) {
  Start(RpcOptions());
  const int socket = daemon_->Connect().value();
  auto holder = Holder(socket);
  // Sent, never waited for: blocks fall due and encodings run while the connection ends.
  for (int i = 0; i < 40; ++i) {
    const std::vector<std::uint32_t> tokens(4, static_cast<std::uint32_t>(i));
    auto advance = AdvanceRequest(*holder, sequence_, tokens);
    [[maybe_unused]] auto unanswered = advance.send();
    auto attend = holder->session().attendRequest();
    auto item = attend.initItems(1)[0];
    item.setSequence(sequence_);
    [[maybe_unused]] auto other = attend.send();
  }
  io_->waitScope.poll();
  ::shutdown(socket, SHUT_RDWR);  // as the kernel does for a process that was killed
  UntilGone(std::chrono::seconds(5));
  EXPECT_EQ(Stats().sequences, 0u);
  EXPECT_EQ(Stats().leases, 0u);
  auto next = Holder(daemon_->Connect().value());
  EXPECT_EQ(Stats().sequences, 1u);
}

TEST_F(ConnectionEndTest, DroppingTheSessionCapabilityFreesIt) {
  Start(RpcOptions());
  auto holder = Holder(daemon_->Connect().value());
  holder->DropSession();
  UntilGone(std::chrono::seconds(5));
  EXPECT_EQ(Stats().leases, 0u);
  holder->Hello();
  EXPECT_EQ(Stats().sessions, 1u);
}

TEST_F(ConnectionEndTest, AClientWhoseHeartStandsStillIsDropped) {
  auto options = RpcOptions();
  options.lease = milliseconds(120);
  Start(options);
  auto hung = Holder(daemon_->Connect().value());
  auto alive = std::make_unique<RpcClient>(*io_, daemon_->Connect().value());
  alive->Hello();
  alive->MakeArena(1 << 20);
  auto without_arena = std::make_unique<RpcClient>(*io_, daemon_->Connect().value());
  without_arena->Hello();
  const auto begin = steady_clock::now();
  while (Stats().dropped == 0 && steady_clock::now() - begin < std::chrono::seconds(5)) {
    alive->Beat();
    std::this_thread::sleep_for(milliseconds(2));
  }
  EXPECT_GE(steady_clock::now() - begin, options.lease - milliseconds(40));  // minus the look at its beginning
  const Figures after = Stats();
  EXPECT_EQ(after.dropped, 1u);
  EXPECT_EQ(after.sessions, 2u);
  EXPECT_EQ(after.leases, 0u);
  bool disconnected = false;
  try {
    hung->Wait(hung->session().pingRequest().send());
  } catch (const kj::Exception& exception) {
    disconnected = wire::FromException(exception, "ping", "here").code == ErrorCode::kDisconnected;
  }
  EXPECT_TRUE(disconnected);
  alive->Wait(alive->session().pingRequest().send());
  without_arena->Wait(without_arena->session().pingRequest().send());
}

TEST_F(ConnectionEndTest, GarbageInsteadOfMessagesEndsThatConnectionOnly) {
  Start(RpcOptions());
  auto holder = Holder(daemon_->Connect().value());
  std::mt19937_64 random(20240229);
  SCOPED_TRACE("seed 20240229");
  for (int i = 0; i < 200; ++i) {
    const int socket = daemon_->Connect().value();
    std::vector<std::uint64_t> words(1 + random() % 64);
    for (auto& word : words) word = random() >> (random() % 64);
    if (i % 2 == 0) words[0] = (words.size() - 1) << 32;  // a well-formed frame around a garbled message
    ASSERT_GT(::send(socket, words.data(), words.size() * 8, MSG_NOSIGNAL), 0);
    ::close(socket);
  }
  holder->Wait(holder->session().pingRequest().send());
  EXPECT_EQ(Stats().sessions, 1u);
  EXPECT_EQ(Stats().leases, 2u);
}

// The daemon reads from an arena while its owner writes garbage over all of it: wrong numbers are the client's, no read leaves
// the mapping, and no error of one session reaches another.
TEST_F(ConnectionEndTest, AClientThatScribblesOverItsArenaHarmsNobody) {
  Start(RpcOptions());
  const RpcTail tail;
  RpcClient client(*io_, daemon_->Connect().value());
  client.Hello();
  const std::uint32_t arena = client.MakeArena(1 << 20);
  const std::uint32_t store = client.OpenStore(tail.spec);
  std::uint64_t id = client.OpenSequence(store, arena, tail).getSequence();
  std::atomic<bool> stop{false};
  std::thread scribbler([&] {
    std::mt19937_64 random(7);
    auto* words = reinterpret_cast<std::uint64_t*>(client.arena());
    for (std::size_t i = 0; !stop.load(std::memory_order_relaxed); i = (i + 1) % (client.arena_bytes() / 8)) {
      // Headers, queries, rows, all of it; mostly finite numbers, so that sealing succeeds as well as fails.
      const std::uint64_t word = random() & (random() % 4096 == 0 ? ~std::uint64_t{0} : 0xBFFFFFFFBFFFFFFF);
      std::atomic_ref<std::uint64_t>(words[i]).store(word, std::memory_order_relaxed);
    }
  });
  std::size_t sealed = 0;
  std::size_t refused = 0;
  for (int round = 0; round < 400; ++round) {
    const std::vector<std::uint32_t> tokens(3, static_cast<std::uint32_t>(round));
    auto advance = AdvanceRequest(client, id, tokens);
    const auto response = client.Wait(advance.send());
    sealed += response.getOutcomes()[0].getSwitchedBlocks() > 0;
    if (response.getOutcomes()[0].getStatus().isError()) {
      const Error error = wire::ReadError(response.getOutcomes()[0].getStatus().getError());
      EXPECT_TRUE(error.code == ErrorCode::kNotFinite || error.code == ErrorCode::kTailFull) << error.message;
      ++refused;
      if (error.code == ErrorCode::kTailFull) {
        auto close = client.session().closeRequest();
        close.setSequence(id);
        ASSERT_TRUE(client.Wait(close.send()).isOk());
        id = client.OpenSequence(store, arena, tail).getSequence();
      }
    }
    auto attend = client.session().attendRequest();
    auto item = attend.initItems(1)[0];
    item.setSequence(id);
    item.setLayer(static_cast<std::uint32_t>(round % 2));
    item.setNewTokens(2);
    FillTensor(item.initQ(), arena, 600 << 10, 2, 4, 16);
    FillTensor(item.initOut(), arena, 700 << 10, 2, 4, 16);
    item.setScale(1.0f);
    const auto outcome = wire::ReadStatus(client.Wait(attend.send()).getOutcomes()[0]);
    // At the ring's last row there is one new row: this tail has none to spare behind it.
    EXPECT_TRUE(outcome || outcome.error().code == ErrorCode::kNotFinite || outcome.error().code == ErrorCode::kTailFull ||
                outcome.error().code == ErrorCode::kOutOfRange)
        << outcome.error().message;
  }
  stop = true;
  scribbler.join();
  EXPECT_GT(sealed, 0u);
  auto holder = Holder(daemon_->Connect().value());
  EXPECT_EQ(Stats().sessions, 2u);
}

TEST_F(ConnectionEndTest, TheDaemonsEndEndsItsConnections) {
  Start(RpcOptions());
  auto holder = Holder(daemon_->Connect().value());
  daemon_->Stop();
  EXPECT_TRUE(daemon_->Wait());
  EXPECT_EQ(daemon_->Connect().error().code, ErrorCode::kDisconnected);
  try {
    holder->Wait(holder->session().pingRequest().send());
    FAIL() << "answered";
  } catch (const kj::Exception& exception) {
    EXPECT_EQ(wire::FromException(exception, "ping", "here").code, ErrorCode::kDisconnected);
  }
}

}  // namespace
}  // namespace kvant::daemon
