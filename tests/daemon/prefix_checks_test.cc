// The first look at restored blocks happens on other threads, once, and before anybody is given them.
#include "daemon/store/prefix_checks.h"

#include <algorithm>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "daemon/store/held_stores.h"
#include "tests/daemon/core_support.h"
#include "tests/daemon/shelf.h"

namespace kvant::daemon {
namespace {

constexpr SequenceConfig kConfig{.recent_tokens = 20, .max_step_tokens = 24, .client = "test", .label = ""};

/// Slots of 262 KiB: five are more than what is left to whoever opens the sequence.
StoreSpec LargeSpec() {
  StoreSpec spec = SmallSpec();
  spec.layers = 16;
  spec.head_dim = 64;
  return spec;
}

struct PrefixChecksTest : testing::Test {
  Shelf shelf;
  TestCore before{std::size_t{64} << 20, EvictionKind::kLru, 0, &shelf};
  TestCore after{std::size_t{64} << 20, EvictionKind::kLru, 0, &shelf};
  const std::vector<std::uint32_t> tokens = Tokens(40 * 16 + 30);
  std::shared_ptr<Store> old = before.stores.Open(LargeSpec()).value().store;
  std::shared_ptr<Store> store;
  PrefixChecks checks{after.encode};

  PrefixChecksTest() {
    TestSequence sequence = TestSequence::Open(old, {}, kConfig);
    while (sequence.tokens.size() < tokens.size()) {
      const std::size_t step = std::min<std::size_t>(kConfig.max_step_tokens, tokens.size() - sequence.tokens.size());
      sequence.Advance(std::span(tokens).subspan(sequence.tokens.size(), step));
      before.encode.RunAll();
    }
    RestoreHeld(after.core, after.stores, shelf.Copies());
    store = after.stores.Open(LargeSpec()).value().store;
  }
  void Damage(std::size_t block) const {
    const auto prefix = store->index().LongestPrefix(store->identity(), tokens, 16);
    const_cast<std::byte*>(prefix.at(block)->codes().payload)[100] ^= std::byte{1};
  }
  void Check(const std::vector<std::uint32_t>& of, bool& done) {
    checks.Check(
        store, [of] { return of; }, [&done] { done = true; });
  }
  [[nodiscard]] std::uint64_t Opened() const { return TestSequence::Open(store, tokens, kConfig).sequence->length(); }
};

TEST_F(PrefixChecksTest, ALongPrefixIsLookedAtByJobsAndNotByTheLoop) {
  const std::uint64_t blocks = store->index().size();
  ASSERT_GE(blocks, 40u);
  ASSERT_EQ(store->unchecked_blocks(), blocks);
  bool done = false;
  Check(tokens, done);
  EXPECT_FALSE(done) << "the loop goes on";
  EXPECT_EQ(store->unchecked_blocks(), blocks) << "and has looked at nothing";
  EXPECT_GE(after.encode.size(), 2u) << "no job takes long";
  EXPECT_EQ(store->Figures().leases, 1u);
  after.encode.RunAll();
  EXPECT_TRUE(done);
  EXPECT_EQ(store->Figures().leases, 0u);
  EXPECT_LE(store->unchecked_blocks(), blocks - 40);
  Damage(3);  // nobody looks again
  EXPECT_GE(Opened(), 640u);
}

TEST_F(PrefixChecksTest, WhatIsDamagedIsLeftToWhoeverOpens) {
  Damage(17);
  bool done = false;
  Check(tokens, done);
  after.encode.RunAll();
  ASSERT_TRUE(done);
  EXPECT_EQ(store->Figures().counters.corrupt_parts, 0u);
  EXPECT_EQ(Opened(), 17u * 16);
  EXPECT_GT(store->Figures().counters.corrupt_parts, 0u);
}

TEST_F(PrefixChecksTest, ManyWhoAskForTheSameReadItOnce) {
  bool first = false, second = false, other = false;
  Check(tokens, first);
  const std::size_t jobs = after.encode.size();
  Check(tokens, second);
  Check(Tokens(100, 9), other);  // nothing of it is here
  EXPECT_EQ(after.encode.size(), jobs);
  after.encode.RunAll();
  EXPECT_TRUE(first && second && other);
  EXPECT_EQ(after.encode.size(), 0u);
}

TEST_F(PrefixChecksTest, AShortOneIsNotWorthAHandOff) {
  bool done = false;
  Check({tokens.begin(), tokens.begin() + 3 * 16}, done);
  EXPECT_TRUE(done);
  EXPECT_EQ(after.encode.size(), 0u);
  EXPECT_EQ(TestSequence::Open(store, {tokens.begin(), tokens.begin() + 3 * 16}, kConfig).sequence->length(), 48u);
}

TEST_F(PrefixChecksTest, TheLeaseEndsWithADaemonThatEnds) {
  bool done = false;
  Check(tokens, done);
  { QueueRunner never_run = std::move(after.encode); }
  EXPECT_FALSE(done);
  EXPECT_EQ(store->Figures().leases, 0u);
}

}  // namespace
}  // namespace kvant::daemon
