#include "daemon/store/prefix_index.h"

#include <deque>
#include <vector>

#include <gtest/gtest.h>

#include "protocol/digest.h"

namespace kvant::daemon {
namespace {

using Ids = std::vector<std::uint32_t>;

/// Blocks of two tokens.
struct IndexTest : testing::Test {
  EvictionOrder order;
  PrefixIndex index{order};
  const protocol::Digest root = protocol::DigestOf("root");

  Block* Add(Block* parent, const Ids& tokens, std::optional<protocol::Digest> chain = {}) {
    auto block = std::make_unique<Block>();
    block->parent = parent;
    block->chain = chain ? *chain : protocol::ChainDigest(parent ? parent->chain : root, tokens);
    block->tokens = tokens;
    return index.Insert(std::move(block));
  }

  /// The block that was used longest ago, taken out; null if none may go.
  Block* EvictOne() {
    Block* block = index.oldest();
    EXPECT_EQ(order.Victim(order.all.blocks), block);  // the only index, and lru
    if (block != nullptr) evicted.push_back(index.TakeOut(*block));
    return block;
  }
  std::deque<std::unique_ptr<Block>> evicted;
};

TEST_F(IndexTest, LongestPrefixStopsAtTheFirstDifferenceAndAtPartBlocks) {
  Block* a = Add(nullptr, {1, 2});
  Block* b = Add(a, {3, 4});
  Add(b, {5, 6});
  EXPECT_EQ(index.LongestPrefix(root, Ids{1, 2, 3, 4, 5, 6, 7}, 2).size(), 3u);
  EXPECT_EQ(index.LongestPrefix(root, Ids{1, 2, 3, 4, 5}, 2), (std::vector<Block*>{a, b}));
  EXPECT_EQ(index.LongestPrefix(root, Ids{1, 2, 3, 9, 5, 6}, 2), std::vector<Block*>{a});
  EXPECT_TRUE(index.LongestPrefix(root, Ids{9, 2, 3, 4}, 2).empty());
  EXPECT_TRUE(index.LongestPrefix(protocol::DigestOf("other"), Ids{1, 2, 3, 4}, 2).empty());
  EXPECT_TRUE(index.LongestPrefix(root, Ids{}, 2).empty());
}

TEST_F(IndexTest, CollidingDigestsAreMissesAndLiveSideBySide) {
  const protocol::Digest same = protocol::DigestOf("the same digest");
  Block* a = Add(nullptr, {1, 2}, same);
  EXPECT_EQ(index.Find(nullptr, same, Ids{3, 4}), nullptr);  // other tokens
  EXPECT_EQ(index.Find(a, same, Ids{1, 2}), nullptr);        // other parent
  Block* b = Add(nullptr, {3, 4}, same);
  EXPECT_EQ(index.Find(nullptr, same, Ids{1, 2}), a);
  EXPECT_EQ(index.Find(nullptr, same, Ids{3, 4}), b);
  index.AddLease(*b);
  EXPECT_EQ(EvictOne(), a);
  EXPECT_EQ(index.Find(nullptr, same, Ids{3, 4}), b);
  EXPECT_EQ(EvictOne(), nullptr);
  index.DropLease(*b);
}

TEST_F(IndexTest, EvictsUnleasedLeavesLeastRecentlyUsedFirst) {
  Block* a = Add(nullptr, {1, 1});
  Block* b = Add(a, {2, 2});
  Block* c = Add(nullptr, {3, 3});
  Block* d = Add(nullptr, {4, 4});
  index.AddLease(*c);
  index.DropLease(*c);  // c is now the latest used
  index.AddLease(*d);
  EXPECT_EQ(EvictOne(), b);  // a is older but has a child
  EXPECT_EQ(EvictOne(), a);
  EXPECT_EQ(EvictOne(), c);
  EXPECT_EQ(EvictOne(), nullptr);  // d is leased
  EXPECT_EQ(index.size(), 1u);
  index.DropLease(*d);
  EXPECT_EQ(EvictOne(), d);
}

TEST_F(IndexTest, LeaseOnAChildKeepsItsAncestors) {
  Block* a = Add(nullptr, {1, 1});
  Block* b = Add(a, {2, 2});
  index.AddLease(*b);
  EXPECT_EQ(EvictOne(), nullptr);
  Add(b, {3, 3});
  EXPECT_NE(EvictOne(), nullptr);
  EXPECT_EQ(EvictOne(), nullptr);
  index.DropLease(*b);
  EXPECT_EQ(index.leases(), 0u);
  EXPECT_EQ(index.leased_blocks(), 0u);
}

TEST_F(IndexTest, TheOldestOfAllIndicesIsKnown) {
  Block* a = Add(nullptr, {1, 1});
  {
    PrefixIndex other(order);
    auto block = std::make_unique<Block>();
    block->tokens = {2, 2};
    Block* b = other.Insert(std::move(block));
    Block* c = Add(nullptr, {3, 3});
    EXPECT_EQ(order.all.blocks.first(), a);
    index.AddLease(*a);
    EXPECT_EQ(order.all.blocks.first(), b);
    index.DropLease(*a);  // now the latest
    other.TakeOut(*b);
    EXPECT_EQ(order.all.blocks.first(), c);
    block = std::make_unique<Block>();
    block->tokens = {4, 4};
    other.Insert(std::move(block));
    EXPECT_EQ(EvictOne(), c);
    EXPECT_EQ(EvictOne(), a);
    EXPECT_NE(order.all.blocks.first(), nullptr);
  }
  EXPECT_EQ(order.all.blocks.first(), nullptr);  // an index that ends takes its blocks with it
}

TEST_F(IndexTest, ALeaseGivenBackTwiceEndsTheDaemon) {
  Block* a = Add(nullptr, {1, 1});
  index.AddLease(*a);
  index.DropLease(*a);
  EXPECT_DEATH(index.DropLease(*a), "KVANT_CHECK failed: block.leases != 0");
}

}  // namespace
}  // namespace kvant::daemon
