#include "daemon/memory/arena.h"

#include <memory>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace kvant::daemon {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

TEST(ArenaTest, IsChargedAsLongAsItLivesWhoeverMadeIt) {
  Budget all(10 * kMiB);
  auto connection = std::make_shared<ArenaAllowance>(3 * kMiB);
  auto kept = Arena::Create(2 * kMiB, 1, connection, all).value();  // as a capability does, beyond its session
  const auto refused = Arena::Create(2 * kMiB, 1, connection, all);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(refused.error().message, testing::HasSubstr("this connection's arena needs 2097152 bytes"));
  connection.reset();  // the connection is gone
  EXPECT_EQ(all.arena_bytes(), 2 * kMiB);
  kept.reset();
  EXPECT_EQ(all.arena_bytes(), 0u);
}

TEST(ArenaTest, AllTogetherHaveALimit) {
  Budget all(5 * kMiB);
  std::vector<std::shared_ptr<const Arena>> arenas;
  for (int i = 0; i < 5; ++i) {
    arenas.push_back(Arena::Create(kMiB, 1, std::make_shared<ArenaAllowance>(kMiB), all).value());
  }
  const auto refused = Arena::Create(kMiB, 1, std::make_shared<ArenaAllowance>(kMiB), all);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kStoreFull);
  arenas.pop_back();
  EXPECT_TRUE(Arena::Create(kMiB, 1, std::make_shared<ArenaAllowance>(kMiB), all).has_value());
}

// A client that drops its session and keeps what gives it the arenas' memory keeps the daemon's descriptors, too.
TEST(ArenaTest, AConnectionHasAFewWhicheverSessionMadeThem) {
  Budget all(1000 * kMiB);
  const auto connection = std::make_shared<ArenaAllowance>(1000 * kMiB);
  std::vector<std::shared_ptr<const Arena>> kept;
  for (std::size_t i = 0; i < ArenaAllowance::kMaxArenas; ++i) {
    kept.push_back(Arena::Create(2 * 4096, 1, connection, all).value());
  }
  const auto refused = Arena::Create(2 * 4096, 1, connection, all);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(refused.error().message, testing::HasSubstr("this connection has 64 already"));
  EXPECT_TRUE(Arena::Create(2 * 4096, 1, std::make_shared<ArenaAllowance>(kMiB), all).has_value()) << "another connection";
  kept.pop_back();
  EXPECT_TRUE(Arena::Create(2 * 4096, 1, connection, all).has_value());
}

}  // namespace
}  // namespace kvant::daemon
