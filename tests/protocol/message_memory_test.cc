#include "protocol/message_memory.h"

#include <memory>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvant::wire {
namespace {

constexpr std::size_t kFree = MessageMemory::kFreeBytes;

/// A connection that gives back all it holds when it is cut.
struct Peer {
  Peer(const std::shared_ptr<MessageMemory>& memory, std::vector<int>& cuts, int number) : account(memory) {
    account.SetCut([this, &cuts, number] {
      cuts.push_back(number);
      account.Give(account.bytes());
    });
  }
  MessageMemory::Account account;
};

TEST(MessageMemoryTest, CutsWhoHoldsMost) {
  const auto memory = std::make_shared<MessageMemory>(1000);
  std::vector<int> cuts;
  Peer small(memory, cuts, 1), large(memory, cuts, 2), late(memory, cuts, 3);
  EXPECT_TRUE(small.account.Take(kFree + 300));
  EXPECT_TRUE(large.account.Take(kFree + 600));
  EXPECT_EQ(memory->used(), 900u);
  EXPECT_TRUE(late.account.Take(kFree + 101));
  EXPECT_THAT(cuts, ::testing::ElementsAre(2));
  EXPECT_EQ(memory->used(), 401u);
  EXPECT_FALSE(large.account.Take(1));
  EXPECT_FALSE(late.account.Take(5000));  // who asks may be the one
  EXPECT_THAT(cuts, ::testing::ElementsAre(2, 3));
}

TEST(MessageMemoryTest, ALittleIsFreeForEverybody) {
  const auto memory = std::make_shared<MessageMemory>(1000);
  std::vector<int> cuts;
  Peer hoarder(memory, cuts, 1);
  EXPECT_TRUE(hoarder.account.Take(kFree + 1000));
  std::vector<std::unique_ptr<Peer>> others;
  for (int i = 0; i < 50; ++i) {
    others.push_back(std::make_unique<Peer>(memory, cuts, 2 + i));
    EXPECT_TRUE(others.back()->account.Take(kFree));
  }
  EXPECT_THAT(cuts, ::testing::IsEmpty());
}

TEST(MessageMemoryTest, AMessageThatOutlivesItsConnectionStaysCounted) {
  const auto memory = std::make_shared<MessageMemory>(1000);
  auto account = std::make_shared<MessageMemory::Account>(memory);
  account->SetCut([] { FAIL() << "it has gone"; });
  EXPECT_TRUE(account->Take(kFree + 900));
  account->SetCut(nullptr);
  std::vector<int> cuts;
  Peer other(memory, cuts, 1);
  EXPECT_FALSE(other.account.Take(kFree + 200));  // nobody else can give anything
  account.reset();
  EXPECT_EQ(memory->used(), 0u);
}

}  // namespace
}  // namespace kvant::wire
