// What the admin capability answers: figures that describe themselves, and lists that stay readable however long they grow.
#include <chrono>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <kj/async.h>
#include <kj/vector.h>

#include "protocol/segment_layout.h"
#include "protocol/wire.h"
#include "tests/daemon/rpc_client.h"

namespace kvant::daemon {
namespace {

/// A page ends with the row that reaches 256 KiB; a row of these tests is below 8 KiB.
constexpr std::uint64_t kMostPageBytes = (std::uint64_t{256} << 10) + (std::uint64_t{8} << 10);

class AdminTest : public ::testing::Test {
 protected:
  void Start(std::size_t budget_bytes) {
    DaemonOptions options = RpcOptions();
    options.budget_bytes = budget_bytes;
    daemon_ = Daemon::Start(options).value();
    client_ = std::make_unique<RpcClient>(*io_, daemon_->Connect().value());
    client_->Hello();
    auto request = client_->bootstrap().adminRequest();
    request.initHello().setProtocolVersion(wire::kProtocolVersion);
    request.getHello().setSegmentLayoutVersion(protocol::kSegmentLayoutVersion);
    admin_ = std::make_unique<wire::Admin::Client>(client_->Wait(request.send()).getOk().getAdmin());
  }

  std::unique_ptr<kj::AsyncIoContext> io_ = MakeLoop();
  std::unique_ptr<Daemon> daemon_;
  std::unique_ptr<RpcClient> client_;
  std::unique_ptr<wire::Admin::Client> admin_;
};

TEST_F(AdminTest, EveryFigureHasANameOfItsOwnAndSaysWhatItIs) {
  Start(std::size_t{8} << 20);
  auto response = client_->Wait(admin_->statsRequest().send());
  const auto stats = response.getStats();
  ASSERT_EQ(stats.getFigures().size(), stats.getValues().size());
  EXPECT_GT(stats.getFigures().size(), 20u);
  std::set<std::string> names;
  for (const auto figure : stats.getFigures()) {
    const std::string name = figure.getName();
    EXPECT_EQ(name.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789_"), std::string::npos) << name;
    EXPECT_TRUE(names.insert(name).second) << name << " is there twice";
    EXPECT_GT(figure.getHelp().size(), 10u) << name;
    const bool in_bytes = name.ends_with("_bytes") || name.starts_with("bytes_");
    EXPECT_EQ(figure.getUnit() == wire::FigureUnit::BYTES, in_bytes) << name;
  }
}

// Readers need no tail of their own, so that this many sequences are quickly made.
TEST_F(AdminTest, TwoHundredThousandSequencesComeInPages) {
  constexpr unsigned kReaders = 200'000;
  Start(std::size_t{1} << 30);
  const RpcTail tail;
  const std::uint32_t store = client_->OpenStore(tail.spec);
  const std::uint64_t source = client_->OpenSequence(store, client_->MakeArena(1 << 20), tail).getSequence();
  for (unsigned made = 0; made < kReaders;) {
    kj::Vector<kj::Promise<void>> answers;
    for (unsigned i = 0; i < 1000; ++i, ++made) {
      auto request = client_->session().readRequest();
      request.setStore(store);
      request.setSource(source);
      answers.add(request.send().then([](auto&& response) { ASSERT_TRUE(response.isOk()); }));
    }
    kj::joinPromises(answers.releaseAsArray()).wait(client_->wait_scope());
  }

  std::uint64_t rows = 0;
  std::uint64_t last = 0;
  std::uint64_t pages = 0;
  std::uint64_t from = 0;
  do {
    auto request = admin_->sequencesRequest();
    request.setFrom(from);
    auto response = client_->Wait(request.send());
    EXPECT_LE(response.getPage().totalSize().wordCount * 8, kMostPageBytes);
    for (const auto row : response.getPage().getRows()) {
      ASSERT_GT(row.getSequence(), last);
      last = row.getSequence();
    }
    rows += response.getPage().getRows().size();
    from = response.getPage().getNext();
    ASSERT_LT(++pages, 10'000u);
  } while (from != 0);
  EXPECT_EQ(rows, kReaders + 1);
  EXPECT_GT(pages, 100u);
}

TEST_F(AdminTest, StoresWithLongTextsComeInPages) {
  constexpr unsigned kStores = 300;
  Start(std::size_t{1} << 30);
  std::set<std::string> names;
  for (unsigned i = 0; i < kStores; ++i) {
    StoreSpec spec = RpcSpec("store/" + std::to_string(i));
    spec.model = std::string(4000, 'm') + std::to_string(i);
    client_->OpenStore(spec);
    names.insert(spec.name);
  }
  std::vector<kj::byte> cursor;
  std::uint64_t pages = 0;
  do {
    auto request = admin_->storesRequest();
    request.setCursor({cursor.data(), cursor.size()});
    auto response = client_->Wait(request.send());
    const auto page = response.getPage();
    EXPECT_LE(page.totalSize().wordCount * 8, kMostPageBytes);
    for (const auto row : page.getRows()) {
      EXPECT_EQ(names.erase(row.getName()), 1u) << row.getName().cStr();
      EXPECT_EQ(row.getModel().size(), 4000 + std::string(row.getName()).size() - 6);
      EXPECT_EQ(row.getFigures().size(), page.getFigures().size());
    }
    cursor.assign(page.getNext().begin(), page.getNext().end());
    ASSERT_LT(++pages, 1000u);
  } while (!cursor.empty());
  EXPECT_TRUE(names.empty());
  EXPECT_GE(pages, kStores * 4000 / kMostPageBytes);
}

TEST_F(AdminTest, BlocksOfASequenceAreInspectedFromWhereTheCallerAsks) {
  Start(std::size_t{8} << 20);
  const RpcTail tail;
  const std::uint32_t arena = client_->MakeArena(1 << 20);
  const std::uint64_t id = client_->OpenSequence(client_->OpenStore(tail.spec), arena, tail).getSequence();
  const std::vector<std::uint32_t> tokens(44, 3);
  auto advance = AdvanceRequest(*client_, id, tokens);
  ASSERT_TRUE(client_->Wait(advance.send()).getOutcomes()[0].getStatus().isOk());
  const auto inspect = [&](std::uint64_t first) {
    auto request = admin_->inspectRequest();
    request.setSequence(id);
    request.setFirstBlock(first);
    return client_->Wait(request.send());
  };
  auto all = inspect(0);
  const std::uint64_t blocks = all.getOk().getSealedBlocks();
  ASSERT_GE(blocks, 2u);
  EXPECT_EQ(all.getOk().getBlocks().size(), blocks);
  auto rest = inspect(1);
  ASSERT_EQ(rest.getOk().getBlocks().size(), blocks - 1);
  EXPECT_EQ(rest.getOk().getBlocks()[0].getFirstPosition(), 16u);
  EXPECT_EQ(inspect(blocks).getOk().getBlocks().size(), 0u);
  EXPECT_EQ(inspect(~std::uint64_t{0}).getOk().getBlocks().size(), 0u);
}

}  // namespace
}  // namespace kvant::daemon
