// What remembers evicted blocks: as many as it has room for, the newest of those that share a place, and for each owner apart.
#include <cstring>

#include <gtest/gtest.h>

#include "daemon/store/evicted_blocks.h"

namespace kvant::daemon {
namespace {

protocol::Digest Chain(std::uint64_t number) {
  protocol::Digest digest{};
  std::memcpy(digest.data(), &number, sizeof number);
  return digest;
}

EvictedBlocks Remembering(Budget& budget, std::size_t blocks) {
  return EvictedBlocks(budget.Take(ChargeKind::kMetadata, blocks * EvictedBlocks::kEntryBytes, "test").value());
}

TEST(EvictedBlocksTest, WithoutRoomNothingIsRemembered) {
  EvictedBlocks none;
  none.Remember(Chain(1), nullptr, 5);
  EXPECT_FALSE(none.Find(Chain(1), nullptr));
  EXPECT_EQ(none.bytes(), 0U);
}

TEST(EvictedBlocksTest, WhatOneOwnerHadSaysNothingOfAnothers) {
  Budget budget(1 << 20);
  EvictedBlocks evicted = Remembering(budget, 64);
  const int owners[2] = {};
  evicted.Remember(Chain(1), &owners[0], 5);
  EXPECT_EQ(evicted.Find(Chain(1), &owners[0]), 5U);
  EXPECT_FALSE(evicted.Find(Chain(1), &owners[1]));
  EXPECT_FALSE(evicted.Find(Chain(2), &owners[0]));
  evicted.Remember(Chain(1), &owners[0], 9);  // once more
  EXPECT_EQ(evicted.Find(Chain(1), &owners[0]), 9U);
}

TEST(EvictedBlocksTest, TheOldestOfASetMakesPlaceAndTheBytesAreCharged) {
  Budget budget(1 << 20);
  {
    EvictedBlocks evicted = Remembering(budget, 8);  // one set: every block may lie anywhere
    EXPECT_EQ(budget.used(), 8 * EvictedBlocks::kEntryBytes);
    EXPECT_EQ(evicted.bytes(), budget.used());
    for (std::uint64_t i = 1; i <= 8; ++i) evicted.Remember(Chain(i), nullptr, i == 3 ? 1 : 10 + i);
    for (std::uint64_t i = 1; i <= 8; ++i) EXPECT_TRUE(evicted.Find(Chain(i), nullptr)) << i;
    evicted.Remember(Chain(9), nullptr, 30);
    EXPECT_FALSE(evicted.Find(Chain(3), nullptr));
    for (const std::uint64_t i : {1, 2, 4, 5, 6, 7, 8, 9}) EXPECT_TRUE(evicted.Find(Chain(i), nullptr)) << i;
  }
  EXPECT_EQ(budget.used(), 0U);
}

}  // namespace
}  // namespace kvant::daemon
