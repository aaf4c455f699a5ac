// What a daemon saves at its end comes back at the next one's start: tenants, demoted blocks, order of use, and no more than
// there is room for.
#include "daemon/snapshot/state_dir.h"

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "daemon/snapshot/restoration.h"
#include "tests/daemon/core_support.h"

namespace kvant::daemon {
namespace {

constexpr SequenceConfig kConfig{.recent_tokens = 20, .max_step_tokens = 24, .client = "test", .label = ""};

struct StateDirTest : testing::Test {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / ("kvant-state-" + std::to_string(::getpid()));
  TestCore before;

  StateDirTest() { std::filesystem::create_directories(folder); }
  ~StateDirTest() override { std::filesystem::remove_all(folder); }

  [[nodiscard]] StateDir Open() const { return StateDir::Open(folder).value(); }
  /// Seals what it can of `tokens`; nobody holds it afterwards.
  void Fill(const std::shared_ptr<Store>& store, const std::vector<std::uint32_t>& tokens) {
    TestSequence sequence = TestSequence::Open(store, {}, kConfig);
    while (sequence.tokens.size() < tokens.size()) {
      const std::size_t step = std::min<std::size_t>(kConfig.max_step_tokens, tokens.size() - sequence.tokens.size());
      sequence.Advance(std::span(tokens).subspan(sequence.tokens.size(), step));
      before.encode.RunAll();
    }
  }
  void Save() {
    const StateToSave state = StateToSave::Of(before.stores);
    const auto saved = Open().Save(state.stores, {});
    ASSERT_TRUE(saved) << saved.error().message;
  }
  static std::size_t Held(Store& store, const std::vector<std::uint32_t>& tokens) {
    return store.index().LongestPrefix(store.identity(), tokens, store.spec().block_tokens).size();
  }
};

TEST_F(StateDirTest, EveryTenantFindsItsOwnStoreAndNoOther) {
  const auto tokens = Tokens(130);
  Fill(before.stores.Open(SmallSpec("chat"), "anna").value().store, tokens);
  Fill(before.stores.Open(SmallSpec("chat"), "bert").value().store, Tokens(60, 2));
  Save();
  TestCore after;
  const auto restored = Open().Restore(after.core, after.stores);
  ASSERT_TRUE(restored) << restored.error().message;
  EXPECT_EQ((*restored)->left_out, 0u);
  Store& anna = *after.stores.Find("chat", "anna").value();
  Store& bert = *after.stores.Find("chat", "bert").value();
  EXPECT_EQ(Held(anna, tokens), 6u);
  EXPECT_EQ(Held(bert, tokens), 0u);
  EXPECT_EQ(Held(bert, Tokens(60, 2)), 2u);
  EXPECT_EQ((*restored)->blocks, 8u);
  EXPECT_EQ(after.stores.tenants().size(), 2u);
  EXPECT_EQ(anna.openers(), 0u);
  TestSequence sequence = TestSequence::Open(anna.shared_from_this(), tokens, kConfig);
  EXPECT_EQ(sequence.Fault(), "");
}

TEST_F(StateDirTest, DemotedBlocksComeBackDemoted) {
  StoreSpec spec = SmallSpec();
  spec.head_dim = 64;
  spec.block_tokens = 128;
  spec.plan.keys = spec.plan.values = "turboquant_mse:bits=4,planes=1";
  const auto store = before.stores.Open(spec).value().store;
  const auto tokens = Tokens(700);
  Fill(store, tokens);
  ASSERT_EQ(store->index().size(), 5u);
  ASSERT_EQ(store->Demote({.sections = 2, .max_blocks = 3}).value().blocks, 3u);
  const StoreFigures figures = store->Figures();
  ASSERT_LT(figures.compressed_bytes, 5 * store->plan()->payload_bytes());
  Save();
  TestCore after;
  const auto restored = Open().Restore(after.core, after.stores);
  ASSERT_TRUE(restored) << restored.error().message;
  Store& same = *after.stores.Find("small").value();
  EXPECT_EQ(same.Figures().compressed_bytes, figures.compressed_bytes);
  after.populate.RunAll();
  EXPECT_EQ(same.pool().resident_bytes(), after.budget.slab_bytes()) << "no more exists than is charged";
  for (const Block* block : store->index().blocks()) {
    const auto blocks = same.index().blocks();
    const auto found = std::ranges::find(blocks, block->chain, &Block::chain);
    ASSERT_NE(found, blocks.end());
    EXPECT_EQ((*found)->codes().sections, block->codes().sections);
    ASSERT_EQ((*found)->codes().payload_bytes, block->codes().payload_bytes);
    EXPECT_EQ(std::memcmp((*found)->codes().payload, block->codes().payload, block->codes().payload_bytes), 0);
  }
  same.EvictAll();
  EXPECT_EQ(same.Figures().compressed_bytes, 0u);
  EXPECT_EQ(after.budget.slab_bytes(), 0u);
}

TEST_F(StateDirTest, WhatWasUsedLastComesBackWhereNotAllFits) {
  const auto store = before.stores.Open(SmallSpec()).value().store;
  for (std::uint32_t text = 1; text <= 40; ++text) Fill(store, Tokens(100, text));
  // The oldest text is asked for once more.
  { const TestSequence again = TestSequence::Open(store, Tokens(100, 1), kConfig); }
  Save();
  TestCore after(std::size_t{3} << 19);
  const auto restored = Open().Restore(after.core, after.stores);
  ASSERT_TRUE(restored) << restored.error().message;
  Store& some = *after.stores.Find("small").value();
  EXPECT_GT((*restored)->left_out, 0u);
  EXPECT_EQ((*restored)->blocks + (*restored)->left_out, store->index().size());
  EXPECT_LE(after.budget.used(), after.budget.limit());
  EXPECT_GT(after.budget.used(), after.budget.limit() * 9 / 10) << "room is left";
  EXPECT_EQ(Held(some, Tokens(100, 1)), 5u);
  EXPECT_EQ(Held(some, Tokens(100, 40)), 5u);
  EXPECT_EQ(Held(some, Tokens(100, 2)), 0u);
  // And what was used longest ago goes first again.
  const std::size_t whole = some.index().size();
  while (some.index().size() > whole / 2) some.Evict(*some.index().oldest());
  EXPECT_EQ(Held(some, Tokens(100, 1)), 5u);
  EXPECT_EQ(Held(some, Tokens(100, 40)), 5u);
}

TEST_F(StateDirTest, ATenantsQuotaHoldsForARestore) {
  const auto store = before.stores.Open(SmallSpec(), "anna").value().store;
  for (std::uint32_t text = 1; text <= 8; ++text) Fill(store, Tokens(100, text));
  const std::size_t most = store->tenant()->budget->used() / 2;
  Save();
  TestCore after;
  after.stores.Limit(*after.stores.FindTenant("anna"), most);
  const auto restored = Open().Restore(after.core, after.stores);
  ASSERT_TRUE(restored) << restored.error().message;
  EXPECT_GT((*restored)->left_out, 0u);
  EXPECT_GT((*restored)->blocks, 0u);
  EXPECT_LE(after.stores.FindTenant("anna")->budget->used(), most);

  // Whoever restores all or nothing is told whose quota it is.
  const auto opened = after.stores.Open(SmallSpec(), "anna").value().store;
  Restoration restoration(after.core);
  std::vector<std::vector<std::uint32_t>> texts;
  for (std::uint32_t text = 100; text < 140; ++text) texts.push_back(Tokens(16, text));
  for (const auto& text : texts) {
    ASSERT_TRUE(restoration.Offer(opened, {.tokens = text, .sink_type = ElementType::kF32}));
  }
  const auto reserved = restoration.Reserve();
  ASSERT_FALSE(reserved);
  EXPECT_EQ(reserved.error().code, ErrorCode::kStoreFull);
  EXPECT_THAT(reserved.error().message, testing::HasSubstr("of the quota of tenant anna, a budget of " + std::to_string(most)));
  EXPECT_THAT(reserved.error().message, testing::HasSubstr("bytes are missing"));
}

TEST_F(StateDirTest, AFullBudgetCanBeSaved) {
  TestCore full(std::size_t{1} << 20, EvictionKind::kNone);
  const auto store = full.stores.Open(SmallSpec()).value().store;
  for (std::uint32_t text = 1; text < 100; ++text) {
    TestSequence sequence = TestSequence::Open(store, {}, kConfig);
    for (int i = 0; i < 4; ++i) {
      const auto tokens = Tokens(96, text);
      sequence.Advance(std::span(tokens).subspan(static_cast<std::size_t>(i) * 24, 24));
      full.encode.RunAll();
    }
  }
  Charge rest = full.budget.Take(ChargeKind::kMetadata, full.budget.available(), "the rest").value();
  const StateToSave state = StateToSave::Of(full.stores);
  ASSERT_EQ(state.stores.size(), 1u);
  EXPECT_EQ(state.stores.front().blocks.size(), store->index().size());
  EXPECT_TRUE(Open().Save(state.stores, {}));
}

TEST_F(StateDirTest, ADamagedBlockIsLeftOutWithWhatFollowsIt) {
  const auto store = before.stores.Open(SmallSpec()).value().store;
  const auto tokens = Tokens(130);
  Fill(store, tokens);
  const auto prefix = store->index().LongestPrefix(store->identity(), tokens, 16);
  for (Block* block : prefix) block->unchecked = true;  // as after a restart
  const_cast<std::byte*>(prefix[3]->codes().payload)[5] ^= std::byte{1};
  Save();
  TestCore after;
  const auto restored = Open().Restore(after.core, after.stores);
  ASSERT_TRUE(restored) << restored.error().message;
  EXPECT_EQ((*restored)->blocks, 3u);
}

TEST_F(StateDirTest, AFolderIsOneDaemonsAndFilesAreSetAsideSideBySide) {
  const StateDir first = Open();
  EXPECT_EQ(StateDir::Open(folder).error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(StateDir::Open(folder / "none").error().code, ErrorCode::kSystem);
  EXPECT_FALSE(first.Restore(before.core, before.stores).value()) << "there is no file";
  Fill(before.stores.Open(SmallSpec()).value().store, Tokens(60));
  for (const char* name : {"state.aside-1.safetensors", "state.aside-2.safetensors"}) {
    ASSERT_TRUE(first.Save(StateToSave::Of(before.stores).stores, {}));
    EXPECT_EQ(first.SetAside().value(), (folder / name).string());
    EXPECT_TRUE(std::filesystem::exists(folder / name));
    EXPECT_FALSE(std::filesystem::exists(first.file()));
  }
}

}  // namespace
}  // namespace kvant::daemon
