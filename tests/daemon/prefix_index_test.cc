#include "daemon/store/prefix_index.h"

#include <deque>
#include <vector>

#include <gtest/gtest.h>

#include "protocol/digest.h"

namespace kvant::daemon {
namespace {

using Ids = std::vector<std::uint32_t>;

/// Blocks of two tokens whose ids live in the test.
struct IndexTest : testing::Test {
  PrefixIndex index;
  std::deque<Ids> ids;
  const protocol::Digest root = protocol::DigestOf("root");

  Block* Add(Block* parent, const Ids& tokens, std::optional<protocol::Digest> chain = {}) {
    auto block = std::make_unique<Block>();
    block->parent = parent;
    block->chain = chain ? *chain : protocol::ChainDigest(parent ? parent->chain : root, tokens);
    block->tokens = ids.emplace_back(tokens);
    return index.Insert(std::move(block));
  }
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
  EXPECT_EQ(index.EvictOne().get(), a);
  EXPECT_EQ(index.Find(nullptr, same, Ids{3, 4}), b);
  EXPECT_EQ(index.EvictOne(), nullptr);
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
  EXPECT_EQ(index.EvictOne().get(), b);  // a is older but has a child
  EXPECT_EQ(index.EvictOne().get(), a);
  EXPECT_EQ(index.EvictOne().get(), c);
  EXPECT_EQ(index.EvictOne(), nullptr);  // d is leased
  EXPECT_EQ(index.size(), 1u);
  index.DropLease(*d);
  EXPECT_EQ(index.EvictOne().get(), d);
}

TEST_F(IndexTest, LeaseOnAChildKeepsItsAncestors) {
  Block* a = Add(nullptr, {1, 1});
  Block* b = Add(a, {2, 2});
  index.AddLease(*b);
  EXPECT_EQ(index.EvictOne(), nullptr);
  Add(b, {3, 3});
  EXPECT_NE(index.EvictOne(), nullptr);
  EXPECT_EQ(index.EvictOne(), nullptr);
  index.DropLease(*b);
  EXPECT_EQ(index.leases(), 0u);
  EXPECT_EQ(index.leased_blocks(), 0u);
}

TEST_F(IndexTest, TakeOutRemovesTheWholeSubtreeAndOnlyThat) {
  Block* a = Add(nullptr, {1, 1});
  Block* b = Add(a, {2, 2});
  Block* c = Add(b, {3, 3});
  Block* d = Add(b, {4, 4});
  Block* e = Add(a, {5, 5});
  const auto taken = index.TakeOut(*b);
  ASSERT_EQ(taken.size(), 3u);
  EXPECT_EQ(taken[0].get(), b);
  EXPECT_TRUE((taken[1].get() == c && taken[2].get() == d) || (taken[1].get() == d && taken[2].get() == c));
  EXPECT_EQ(index.size(), 2u);
  EXPECT_EQ(index.EvictOne().get(), e);
  EXPECT_EQ(index.EvictOne().get(), a);
}

}  // namespace
}  // namespace kvant::daemon
