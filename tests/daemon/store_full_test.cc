// Stores at the end of their budget.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/daemon/core_support.h"

namespace kvant::daemon {
namespace {

using testing::HasSubstr;

constexpr SequenceConfig kConfig{.recent_tokens = 20, .max_step_tokens = 24, .client = "test", .label = ""};

/// Slots of about 98 KiB: ten fill the least budget a daemon may have. Each name has a store of its own.
StoreSpec BigSlots(std::string name) {
  StoreSpec spec = SmallSpec(std::move(name));
  spec.salt = spec.name;
  spec.layers = 6;
  spec.head_dim = 64;
  return spec;
}

struct StoreFullTest : testing::Test {
  TestCore core{Budget::kMinimumBytes};
  std::shared_ptr<Store> store = core.stores.Open(BigSlots("a")).value().store;

  TestSequence Open(const std::shared_ptr<Store>& in) { return TestSequence::Open(in, {}, kConfig); }

  /// Advances token by token until a block cannot be sealed; the tokens held then.
  std::optional<Error> GrowUntilFull(TestSequence& sequence, std::uint32_t seed, std::size_t most = 400) {
    const auto tokens = Tokens(most, seed);
    while (sequence.tokens.size() < most) {
      std::optional<Result<Advanced>> answer;
      sequence.Advance(std::span(tokens).subspan(sequence.tokens.size(), 1), &answer);
      core.encode.RunAll();
      core.populate.RunAll();
      EXPECT_LE(core.budget.slab_bytes() + core.budget.metadata_bytes(), core.budget.limit());
      if (!*answer) return answer->error();
      if ((*answer)->seal_error) return (*answer)->seal_error;
    }
    return std::nullopt;
  }
};

TEST_F(StoreFullTest, AFullStoreRefusesClearlyAndTheSequenceStaysUsable) {
  TestSequence sequence = Open(store);
  const std::optional<Error> full = GrowUntilFull(sequence, 1);
  ASSERT_TRUE(full.has_value());
  EXPECT_EQ(full->code, ErrorCode::kStoreFull);
  EXPECT_THAT(full->message, HasSubstr("block at position"));
  EXPECT_THAT(full->message, HasSubstr("the budget of 1048576 bytes"));
  EXPECT_GE(store->counters().store_full_errors, 1u);
  EXPECT_EQ(sequence.Fault(), "");
  const std::uint64_t sealed = sequence.sequence->sealed_blocks();
  EXPECT_GE(sealed, 7u);
  EXPECT_EQ(store->Figures().blocks, sealed);  // nothing leased was evicted

  // The tail takes more until the ring is full.
  std::uint32_t more = 0;
  while (sequence.sequence->free_rows() != 0) {
    std::optional<Result<Advanced>> answer;
    sequence.Advance(Tokens(1, 1000 + more++), &answer);
    ASSERT_TRUE(answer->has_value());
    EXPECT_EQ((*answer)->seal_error->code, ErrorCode::kStoreFull);
    ASSERT_EQ(sequence.Fault(), "");
  }
  EXPECT_GT(more, 0u);
  std::optional<Result<Advanced>> answer;
  sequence.Advance(Tokens(1), &answer);
  EXPECT_EQ(answer->error().code, ErrorCode::kTailFull);
  EXPECT_EQ(sequence.Fault(), "");
}

TEST_F(StoreFullTest, SealingIsTriedAgainAndSucceedsOnceThereIsRoom) {
  TestSequence other = Open(store);
  ASSERT_EQ(GrowUntilFull(other, 2, 60), std::nullopt);  // two blocks
  TestSequence sequence = Open(store);
  ASSERT_EQ(GrowUntilFull(sequence, 1)->code, ErrorCode::kStoreFull);
  const std::uint64_t before = sequence.sequence->switched_blocks();
  other.sequence.reset();
  std::optional<Result<Advanced>> answer;
  sequence.Advance({}, &answer);  // no tokens: tries again
  core.encode.RunAll();
  ASSERT_TRUE(answer->has_value());
  EXPECT_FALSE((*answer)->seal_error.has_value());
  EXPECT_GT((*answer)->switched_blocks, before);
  EXPECT_EQ(sequence.Fault(), "");
}

TEST_F(StoreFullTest, UnleasedLeavesAreEvictedLeastRecentlyUsedFirst) {
  {
    TestSequence old = Open(store);
    ASSERT_EQ(GrowUntilFull(old, 1, 72), std::nullopt);
  }
  {
    TestSequence young = Open(store);
    ASSERT_EQ(GrowUntilFull(young, 2, 72), std::nullopt);
  }
  const std::uint64_t blocks = store->Figures().blocks;
  ASSERT_EQ(blocks, 6u);
  TestSequence sequence = Open(store);
  ASSERT_EQ(GrowUntilFull(sequence, 3, 104), std::nullopt);
  EXPECT_GT(store->counters().evicted_blocks, 0u);
  EXPECT_EQ(sequence.Fault(), "");
  // The older conversation lost its end first; the younger is whole.
  const auto held = [&](std::uint32_t seed) {
    return store->index().LongestPrefix(store->identity(), Tokens(72, seed), 16).size();
  };
  EXPECT_EQ(held(2), 3u);
  EXPECT_LT(held(1), 3u);
}

TEST_F(StoreFullTest, AnotherStoreWithoutLeasesMakesRoom) {
  {
    TestSequence done = Open(store);
    ASSERT_EQ(GrowUntilFull(done, 1, 120), std::nullopt);
  }
  const auto other = core.stores.Open(BigSlots("b")).value().store;
  TestSequence sequence = TestSequence::Open(other, {}, kConfig);
  ASSERT_EQ(GrowUntilFull(sequence, 5, 120), std::nullopt);
  EXPECT_EQ(sequence.Fault(), "");
  EXPECT_GT(store->counters().evicted_blocks, 0u);
  // And the other way round nothing leased goes.
  TestSequence loser = Open(store);
  const std::optional<Error> full = GrowUntilFull(loser, 6);
  ASSERT_TRUE(full.has_value());
  EXPECT_EQ(full->code, ErrorCode::kStoreFull);
  EXPECT_EQ(sequence.Fault(), "");
}

TEST_F(StoreFullTest, TheBlockUsedLongestAgoGoesWhateverItsStoreIsCalled) {
  const auto later = core.stores.Open(BigSlots("z")).value().store;
  {
    TestSequence old = Open(later);
    ASSERT_EQ(GrowUntilFull(old, 1, 72), std::nullopt);
  }
  {
    TestSequence young = Open(store);  // "a": the first by name
    ASSERT_EQ(GrowUntilFull(young, 2, 72), std::nullopt);
  }
  const auto third = core.stores.Open(BigSlots("m")).value().store;
  TestSequence sequence = Open(third);
  ASSERT_EQ(GrowUntilFull(sequence, 3, 104), std::nullopt);
  EXPECT_GT(later->counters().evicted_blocks, 0u);
  EXPECT_EQ(store->counters().evicted_blocks, 0u);
  EXPECT_EQ(store->Figures().blocks, 3u);
}

TEST_F(StoreFullTest, OneConversationPerTenantFillsTheBudgetToTheEnd) {
  // Two blocks of 98 KiB and their sinks of 24 KiB each: with a slab of budget/16 or with sinks in a slot of a whole block,
  // half of them would fit.
  TestCore small(std::size_t{4} << 20);
  StoreSpec spec = BigSlots("");
  for (int round = 0; round < 2; ++round) {
    for (int tenant = 0; tenant < 15; ++tenant) {
      spec.name = "tenant" + std::to_string(tenant);
      spec.salt = std::to_string(tenant);
      const auto opened = small.stores.Open(spec);
      ASSERT_TRUE(opened.has_value()) << tenant << ": " << opened.error().message;
      const auto tokens = Tokens(60);
      TestSequence sequence = TestSequence::Open(opened->store, tokens, kConfig);
      EXPECT_EQ(sequence.sequence->length(), round == 0 ? 0u : 32u) << tenant;
      while (sequence.tokens.size() < tokens.size()) {
        const std::size_t step = std::min<std::size_t>(kConfig.max_step_tokens, tokens.size() - sequence.tokens.size());
        sequence.Advance(std::span(tokens).subspan(sequence.tokens.size(), step));
        small.encode.RunAll();
      }
    }
  }
  EXPECT_EQ(small.stores.Totals().counters.evicted_blocks, 0u);
}

TEST_F(StoreFullTest, AConversationOfOneBlockTakesOneBlock) {
  TestCore one(std::size_t{16} << 20);
  const auto store_of_one = one.stores.Open(BigSlots("one")).value().store;
  TestSequence sequence = TestSequence::Open(store_of_one, {}, kConfig);
  const auto tokens = Tokens(40);  // its first block is sealed, a second one not due
  while (sequence.tokens.size() < tokens.size()) {
    const std::size_t step = std::min<std::size_t>(kConfig.max_step_tokens, tokens.size() - sequence.tokens.size());
    sequence.Advance(std::span(tokens).subspan(sequence.tokens.size(), step));
    one.encode.RunAll();
    one.populate.RunAll();
  }
  ASSERT_EQ(store_of_one->Figures().blocks, 1u);
  // Codes, sink rows in a slot of their own size, and for each of the two a header's page and a page that is not filled.
  const std::size_t sinks = store_of_one->SlotBytes(store_of_one->SinkBytes(ElementType::kF32));
  EXPECT_LE(one.budget.slab_bytes(), store_of_one->slot_bytes() + sinks + 4 * 4096);
  const double factor = static_cast<double>(one.budget.slab_bytes()) / static_cast<double>(store_of_one->slot_bytes());
  EXPECT_LT(factor, 1.45);  // a quarter of the block is sinks here, raw as the block itself; 2.05 with slots of one size
  EXPECT_EQ(store_of_one->Figures().resident_bytes, one.budget.slab_bytes());
}

/// Any size of block in any budget: filling it ends with a clear refusal while everything is leased, and goes on for ever once
/// nothing is.
TEST(StoreFitsTest, BlocksOfEverySizeInSmallBudgets) {
  constexpr std::size_t kMiB = std::size_t{1} << 20;
  for (const std::size_t limit : {kMiB, 3 * kMiB, 4 * kMiB, 5 * kMiB, 6 * kMiB, 8 * kMiB}) {
    for (const std::uint32_t head_dim : {8u, 24u, 64u, 512u}) {
      TestCore core(limit);
      StoreSpec spec = SmallSpec();
      spec.layers = spec.kv_heads = 1;
      spec.head_dim = head_dim;
      spec.plan.keys = spec.plan.values = "int8";
      const auto store = core.stores.Open(spec).value().store;
      const SequenceConfig config{.recent_tokens = 0, .max_step_tokens = 64, .client = "test", .label = ""};
      const auto fill = [&](TestSequence& sequence, std::uint32_t seed, std::size_t most) -> std::optional<Error> {
        const auto tokens = Tokens(most, seed);
        while (sequence.tokens.size() < most) {
          std::optional<Result<Advanced>> answer;
          sequence.Advance(std::span(tokens).subspan(sequence.tokens.size(), 64), &answer);
          core.encode.RunAll();
          core.populate.RunAll();
          EXPECT_LE(core.budget.slab_bytes() + core.budget.metadata_bytes(), limit);
          if (!*answer) return answer->error();
          if ((*answer)->seal_error) return (*answer)->seal_error;
        }
        return std::nullopt;
      };
      {
        TestSequence sequence = TestSequence::Open(store, {}, config);
        const std::optional<Error> full = fill(sequence, 1, 1 << 18);
        ASSERT_TRUE(full.has_value()) << limit << " " << head_dim;
        EXPECT_EQ(full->code, ErrorCode::kStoreFull) << full->message;
        // What could not be used is less than an eighth: metadata counts too.
        EXPECT_LT(core.budget.available(), limit / 8) << limit << " " << head_dim;
      }
      TestSequence next = TestSequence::Open(store, {}, config);
      EXPECT_EQ(fill(next, 2, limit / (16 * head_dim) / 64 * 64), std::nullopt) << limit << " " << head_dim;
    }
  }
}

TEST_F(StoreFullTest, EvictGivesMemoryBack) {
  {
    TestSequence done = Open(store);
    ASSERT_EQ(GrowUntilFull(done, 1, 120), std::nullopt);
  }
  const std::uint64_t blocks = store->Figures().blocks;
  const EvictFigures dry = core.stores.Evict(BlockSelection{}, true).value();
  EXPECT_EQ(dry.blocks, blocks);
  EXPECT_EQ(dry.bytes, blocks * store->slot_bytes() + store->SlotBytes(store->SinkBytes(ElementType::kF32)));
  EXPECT_EQ(store->Figures().blocks, blocks);
  EXPECT_EQ(core.stores.Evict({.store = "a", .max_blocks = 2}, false).value().blocks, 2u);
  EXPECT_EQ(store->Figures().blocks, blocks - 2);
  EXPECT_EQ(core.stores.Evict(BlockSelection{}, false).value().blocks, blocks - 2);
  core.populate.RunAll();
  EXPECT_EQ(core.budget.slab_bytes(), 0u);
  EXPECT_EQ(store->Figures().resident_bytes, 0u);
  EXPECT_EQ(core.stores.Evict({.store = "nobody"}, false).error().code, ErrorCode::kNotFound);
}

TEST_F(StoreFullTest, ASequenceThatFinishesBeforeItClosesLosesNothing) {
  const auto tokens = Tokens(60);
  {
    TestSequence sequence = Open(store);
    while (sequence.tokens.size() < tokens.size()) {
      sequence.Advance(std::span(tokens).subspan(sequence.tokens.size(), 12));  // encodings begin, none ends
    }
    bool finished = false;
    sequence.sequence->FinishSealing([&] { finished = true; });
    EXPECT_FALSE(finished);
    core.encode.RunAll();
    EXPECT_TRUE(finished);
  }
  EXPECT_EQ(store->Figures().blocks, 2u);
  EXPECT_EQ(store->counters().lost_blocks, 0u);
}

TEST_F(StoreFullTest, WhatIsLostIsCounted) {
  const auto tokens = Tokens(60);
  {
    TestSequence sequence = Open(store);
    while (sequence.tokens.size() < tokens.size()) {
      sequence.Advance(std::span(tokens).subspan(sequence.tokens.size(), 12));
    }
  }
  core.encode.RunAll();
  EXPECT_EQ(store->Figures().blocks, 0u);
  EXPECT_EQ(store->counters().lost_blocks, 2u);
}

TEST_F(StoreFullTest, SequencesAreChargedToo) {
  std::vector<TestSequence> sequences;
  for (;;) {
    auto opened = Sequence::Open(store, {}, MakeTail(store->spec(), kConfig), kConfig);
    if (!opened) {
      EXPECT_EQ(opened.error().code, ErrorCode::kStoreFull);
      break;
    }
    ASSERT_LT(sequences.size(), 2000u);
    sequences.push_back({std::move(*opened), {}});
  }
  EXPECT_GT(sequences.size(), 100u);
  EXPECT_EQ(core.core.sequences.size(), sequences.size());
  sequences.clear();
  EXPECT_EQ(core.core.sequences.size(), 0u);
}

}  // namespace
}  // namespace kvant::daemon
