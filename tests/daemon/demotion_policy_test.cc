// Room made by dropping planes of cold blocks before any block goes.
#include <algorithm>
#include <memory>
#include <vector>

#include <gtest/gtest.h>

#include "tests/daemon/core_support.h"

namespace kvant::daemon {
namespace {

constexpr SequenceConfig kConfig{.recent_tokens = 20, .max_step_tokens = 24, .client = "test", .label = ""};
constexpr std::uint32_t kBlockTokens = 128;
constexpr std::size_t kKept = 2;  // of 8 sections

StoreSpec PlanesSpec() {
  StoreSpec spec = SmallSpec();
  spec.head_dim = 64;
  spec.block_tokens = kBlockTokens;
  spec.plan.keys = "turboquant_mse:bits=8,planes=1";
  spec.plan.values = "turboquant_mse:bits=8,planes=1";
  return spec;
}

/// A cache of some thirty whole blocks, filled with conversations of two.
struct DemotionPolicyTest : testing::Test {
  std::unique_ptr<TestCore> core;
  std::shared_ptr<Store> store;

  void Start(std::size_t demote_to, EvictionKind kind = EvictionKind::kLru) {
    store.reset();
    core = std::make_unique<TestCore>(std::size_t{5} << 19, kind, demote_to);
    store = core->stores.Open(PlanesSpec()).value().store;
  }
  [[nodiscard]] static std::vector<std::uint32_t> Text(std::uint32_t seed, std::size_t blocks = 2) {
    return Tokens(blocks * kBlockTokens + 30, seed);
  }
  void Talk(const std::vector<std::uint32_t>& tokens) {
    TestSequence sequence = TestSequence::Open(store, tokens, kConfig);
    while (sequence.tokens.size() < tokens.size()) {
      const std::size_t step = std::min<std::size_t>(kConfig.max_step_tokens, tokens.size() - sequence.tokens.size());
      std::optional<Result<Advanced>> answer;
      sequence.Advance(std::span(tokens).subspan(sequence.tokens.size(), step), &answer);
      core->encode.RunAll();
      core->populate.RunAll();
      ASSERT_TRUE(answer && answer->has_value() && !(*answer)->seal_error);
    }
  }
  /// Sections of the blocks of a text that are there.
  [[nodiscard]] std::vector<int> Sections(const std::vector<std::uint32_t>& tokens) const {
    std::vector<int> sections;
    for (const Block* block : store->index().LongestPrefix(store->identity(), tokens, kBlockTokens)) {
      sections.push_back(block->codes().sections);
    }
    return sections;
  }
};

TEST_F(DemotionPolicyTest, TheColderHalfIsCutDownBeforeAnythingGoes) {
  for (const EvictionKind kind : {EvictionKind::kLru, EvictionKind::kS3Fifo}) {
    Start(kKept, kind);
    std::uint32_t seed = 0;
    while (store->Figures().counters.demoted_blocks == 0) Talk(Text(++seed));
    EXPECT_EQ(store->Figures().counters.evicted_blocks, 0u);
    EXPECT_EQ(Sections(Text(1)).back(), static_cast<int>(kKept)) << "the one that has been there longest";
    const std::uint64_t whole = store->Figures().blocks;
    while (store->Figures().counters.evicted_blocks == 0) Talk(Text(++seed));
    const StoreFigures figures = store->Figures();
    EXPECT_GE(figures.coarse_blocks, figures.blocks / 2 - 1) << "as many as may be, before the first went";
    EXPECT_LE(figures.coarse_blocks, figures.blocks / 2 + 1);
    EXPECT_GT(figures.blocks, whole + whole / 4) << "room for more";
    EXPECT_EQ(Sections(Text(seed)), (std::vector<int>{8, 8})) << "the newest is as it was sealed";
    EXPECT_EQ(core->budget.slab_bytes(), store->pool().held_bytes());
    for (int more = 0; more < 15; ++more) {
      Talk(Text(++seed));
      ASSERT_LE(store->Figures().coarse_blocks, store->Figures().blocks / 2 + 1);
      ASSERT_LE(core->budget.used(), core->budget.limit());
    }
    store->EvictAll();
    EXPECT_EQ(store->Figures().coarse_blocks, 0u);
    EXPECT_EQ(store->Figures().compressed_bytes, 0u);
  }
}

TEST_F(DemotionPolicyTest, IsAChoice) {
  Start(0);
  for (std::uint32_t seed = 1; seed < 40; ++seed) Talk(Text(seed));
  EXPECT_EQ(store->Figures().counters.demoted_blocks, 0u);
  EXPECT_GT(store->Figures().counters.evicted_blocks, 0u);
}

TEST_F(DemotionPolicyTest, WhatOthersContinueAndWhatIsHeldStayWhole) {
  Start(kKept);
  std::vector<std::uint32_t> one = Text(1, 3), other = Text(1, 3);
  for (std::size_t i = kBlockTokens; i < other.size(); ++i) ++other[i];
  Talk(one);
  Talk(other);
  const TestSequence held = TestSequence::Open(store, Text(1, 1), kConfig);  // the block that both continue
  std::uint32_t seed = 10;
  while (store->Figures().counters.evicted_blocks == 0) Talk(Text(++seed));
  const std::vector<int> sections = Sections(one);
  ASSERT_FALSE(sections.empty());
  EXPECT_EQ(sections.front(), 8);
  if (sections.size() > 1) {
    EXPECT_EQ(sections.back(), static_cast<int>(kKept));
  }
}

TEST_F(DemotionPolicyTest, ADamagedBlockGoesAndHoldsNobodyUp) {
  Start(kKept);
  Talk(Text(1));
  for (Block* block : store->index().blocks()) const_cast<std::byte*>(block->codes().payload)[9] ^= std::byte{1};
  for (std::uint32_t seed = 2; seed < 45; ++seed) Talk(Text(seed));
  EXPECT_TRUE(Sections(Text(1)).empty());
  EXPECT_GT(store->Figures().counters.demoted_blocks, 0u);
}

}  // namespace
}  // namespace kvant::daemon
