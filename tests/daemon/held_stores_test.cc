// What a keeper is told of, and stores served again from what it held.
#include "daemon/store/held_stores.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "daemon/memory/keeper.h"
#include "daemon/store/restore.h"
#include "tests/daemon/core_support.h"
#include "tests/daemon/shelf.h"

namespace kvant::daemon {
namespace {

constexpr SequenceConfig kConfig{.recent_tokens = 20, .max_step_tokens = 24, .client = "test", .label = ""};

struct HeldStoresTest : testing::Test {
  Shelf shelf;
  TestCore before;
  std::shared_ptr<Store> store;
  const std::vector<std::uint32_t> tokens = Tokens(130);

  HeldStoresTest() {
    before.core.keeper = &shelf;
    store = before.stores.Open(SmallSpec()).value().store;
    Fill(store, tokens);
  }
  void Fill(const std::shared_ptr<Store>& to, const std::vector<std::uint32_t>& with) {
    TestSequence sequence = TestSequence::Open(to, {}, kConfig);
    while (sequence.tokens.size() < with.size()) {
      const std::size_t step = std::min<std::size_t>(kConfig.max_step_tokens, with.size() - sequence.tokens.size());
      sequence.Advance(std::span(with).subspan(sequence.tokens.size(), step));
      before.encode.RunAll();
    }
  }
  [[nodiscard]] std::vector<Block*> Prefix(Store& of) const { return of.index().LongestPrefix(of.identity(), tokens, 16); }
};

TEST_F(HeldStoresTest, TheKeeperHasTheManifestAndEverySlabUntilTheyGo) {
  EXPECT_EQ(shelf.size(), 1 + store->slabs(0).size());
  before.populate.RunAll();  // a slab with pages on their way stays
  before.stores.Close(store);
  ASSERT_TRUE(before.stores.Drop(store->name()));
  EXPECT_EQ(shelf.size(), 1u) << "slabs are given back, the store is still referred to";
  store.reset();
  EXPECT_EQ(shelf.size(), 0u);
}

TEST_F(HeldStoresTest, AStoreIsFoundUnderItsNameWithItsBlocks) {
  const std::size_t segments = shelf.size();
  TestCore after;
  after.core.keeper = &shelf;
  const HeldFigures figures = RestoreHeld(after.core, after.stores, shelf.Copies());
  EXPECT_EQ(figures.stores, 1u);
  EXPECT_EQ(figures.blocks, store->index().size());
  EXPECT_EQ(figures.bytes, store->Figures().compressed_bytes);
  EXPECT_EQ(figures.dropped_parts + figures.dropped_segments, 0u);
  EXPECT_EQ(shelf.size(), segments) << "a manifest of its own for the old one";
  const Result<OpenedStore> opened = after.stores.Open(SmallSpec());
  ASSERT_TRUE(opened);
  EXPECT_FALSE(opened->created);
  EXPECT_EQ(after.stores.Find(SmallSpec().name).value(), opened->store.get());
  TestSequence sequence = TestSequence::Open(opened->store, tokens, kConfig);
  EXPECT_EQ(sequence.sequence->length(), Prefix(*store).size() * 16);
  EXPECT_EQ(sequence.Fault(), "");
}

TEST_F(HeldStoresTest, TenantsThatOpenTheSameSpecGetTheirOwnBlocksBack) {
  std::vector<std::uint32_t> others = tokens;
  for (std::uint32_t& token : others) token += 1000;
  const std::shared_ptr<Store> theirs = before.stores.Open(SmallSpec(), "red").value().store;
  Fill(theirs, others);
  ASSERT_EQ(theirs->identity(), store->identity());
  TestCore after;
  after.core.keeper = &shelf;
  const HeldFigures figures = RestoreHeld(after.core, after.stores, shelf.Copies());
  EXPECT_EQ(figures.stores, 2u);
  EXPECT_EQ(figures.dropped_parts + figures.dropped_segments, 0u);
  const std::shared_ptr<Store> red = after.stores.Open(SmallSpec(), "red").value().store;
  const std::shared_ptr<Store> mine = after.stores.Open(SmallSpec()).value().store;
  EXPECT_EQ(Prefix(*mine).size(), Prefix(*store).size());
  EXPECT_TRUE(Prefix(*red).empty()) << "another tenant's";
  EXPECT_EQ(red->index().LongestPrefix(red->identity(), others, 16).size(),
            theirs->index().LongestPrefix(theirs->identity(), others, 16).size());
  // A slab that is put beside another tenant's manifest is not taken in.
  std::vector<int> foreign;
  for (const auto& slab : theirs->slabs(0)) foreign.push_back(slab->read_only_fd());
  TestCore mixed;
  const Result<RestoredStore> refused =
      RestoreStore(mixed.stores, wire::ReadManifestSegment(store->manifest_fd()).value(), foreign, CheckPayload::kNow);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, testing::HasSubstr("another tenant's"));
}

TEST_F(HeldStoresTest, ADamagedBlockIsFoundAtFirstUseAndNeverServed) {
  const auto prefix = Prefix(*store);
  ASSERT_GE(prefix.size(), 6u);
  const_cast<std::byte*>(prefix[3]->codes().payload)[5] ^= std::byte{1};
  TestCore after;
  const HeldFigures figures = RestoreHeld(after.core, after.stores, shelf.Copies());
  EXPECT_EQ(figures.blocks, prefix.size()) << "not looked at yet";
  const std::shared_ptr<Store> restored = after.stores.Open(SmallSpec()).value().store;
  {
    TestSequence sequence = TestSequence::Open(restored, tokens, kConfig);
    EXPECT_EQ(sequence.sequence->length(), 48u);
    EXPECT_EQ(sequence.Fault(), "");
  }
  EXPECT_EQ(restored->index().size(), 3u) << "it and what follows it is gone";
  EXPECT_EQ(restored->counters().corrupt_parts, prefix.size() - 3);
  EXPECT_EQ(restored->pool().used_slots(), 3u + 1u) << "three blocks, the first with its sinks";
}

TEST_F(HeldStoresTest, ADamagedBlockThatAPinHoldsIsNeverServedAndGoesWithThePin) {
  const auto prefix = Prefix(*store);
  const_cast<std::byte*>(prefix[3]->codes().payload)[5] ^= std::byte{1};
  TestCore after;
  RestoreHeld(after.core, after.stores, shelf.Copies());
  const std::shared_ptr<Store> restored = after.stores.Open(SmallSpec()).value().store;
  const PinFigures pin = after.stores.pins().Add({Prefix(*restored).back()}, std::chrono::hours(1)).value();
  ASSERT_EQ(pin.blocks, prefix.size());
  for (int times = 0; times < 2; ++times) {
    TestSequence sequence = TestSequence::Open(restored, tokens, kConfig);
    EXPECT_EQ(sequence.sequence->length(), 48u);
    EXPECT_EQ(sequence.Fault(), "");
    EXPECT_EQ(restored->index().size(), prefix.size()) << "the pin holds them";
    EXPECT_EQ(restored->counters().corrupt_parts, prefix.size() - 3) << "counted once";
  }
  ASSERT_TRUE(after.stores.pins().Remove(pin.id));
  after.stores.Tend(0, 1000);
  EXPECT_EQ(restored->index().size(), 3u);
}

TEST_F(HeldStoresTest, ABlockThatIsSealedAnewIsNotTakenForTheDamagedOne) {
  const auto prefix = Prefix(*store);
  const_cast<std::byte*>(prefix[5]->codes().payload)[7] ^= std::byte{1};
  TestCore after;
  RestoreHeld(after.core, after.stores, shelf.Copies());
  const std::shared_ptr<Store> restored = after.stores.Open(SmallSpec()).value().store;
  // Without a lookup of the prefix: each block is met when the sequence seals its own.
  TestSequence sequence = TestSequence::Open(restored, {}, kConfig);
  while (sequence.tokens.size() < tokens.size()) {
    sequence.Advance(
        std::span(tokens).subspan(sequence.tokens.size(), std::min<std::size_t>(24, tokens.size() - sequence.tokens.size())));
    after.encode.RunAll();
  }
  EXPECT_EQ(sequence.Fault(), "");
  EXPECT_EQ(restored->counters().sealed_blocks, 1u) << "only the damaged one";
  for (const Block* block : Prefix(*restored)) EXPECT_TRUE(restored->Inspect(*block).checksum_ok) << block->first_position;
}

TEST_F(HeldStoresTest, AFreedSlotOfAnAdoptedSlabLooksFree) {
  TestCore after;
  RestoreHeld(after.core, after.stores, shelf.Copies());
  const std::shared_ptr<Store> restored = after.stores.Open(SmallSpec()).value().store;
  Block* const last = Prefix(*restored).back();
  const SlotRef slot = last->codes().slot;
  restored->Evict(*last);
  std::uint32_t magic = 1;
  std::memcpy(&magic, restored->pool().Address(slot), sizeof magic);
  EXPECT_EQ(magic, 0u) << "a daemon after this one would take it for the block that was evicted";
}

TEST_F(HeldStoresTest, WhatIsDroppedLooksFreeToTheNextDaemon) {
  std::byte* const header = store->pool().Address(Prefix(*store)[3]->codes().slot);  // its page is also its neighbour's
  header[120] ^= std::byte{1};                                                       // of its checksum
  TestCore after;
  const HeldFigures figures = RestoreHeld(after.core, after.stores, shelf.Copies());
  EXPECT_EQ(figures.blocks, 3u);
  std::uint32_t magic = 1;
  std::memcpy(&magic, header, sizeof magic);
  EXPECT_EQ(magic, 0u);
}

TEST_F(HeldStoresTest, SlabsWithoutAManifestAndSegmentsThatHoldNothingAreReleased) {
  Shelf slabs_only;
  for (const auto& slab : store->slabs(0)) slabs_only.Keep(slab->read_only_fd());
  slabs_only.Keep(protocol::CreateSealedMemfd("kvant-empty", 4096).value().get());
  TestCore after;
  after.core.keeper = &slabs_only;
  const HeldFigures figures = RestoreHeld(after.core, after.stores, slabs_only.Copies());
  EXPECT_EQ(figures.stores, 0u);
  EXPECT_EQ(figures.dropped_segments, store->slabs(0).size() + 1);
  EXPECT_EQ(slabs_only.size(), 0u);
  EXPECT_EQ(after.budget.slab_bytes() + after.budget.metadata_bytes(), 0u);
}

TEST_F(HeldStoresTest, ASlabThatHoldsNoBlockIsGivenBack) {
  const std::size_t segments = shelf.size();
  while (Block* const leaf = store->index().oldest()) store->Evict(*leaf);  // slots are cleared, slabs stay warm
  ASSERT_EQ(shelf.size(), segments);
  TestCore after;
  after.core.keeper = &shelf;
  const HeldFigures figures = RestoreHeld(after.core, after.stores, shelf.Copies());
  EXPECT_EQ(figures.stores, 0u);
  EXPECT_EQ(shelf.size(), 0u);
  EXPECT_EQ(after.budget.slab_bytes() + after.budget.metadata_bytes(), 0u);
}

}  // namespace
}  // namespace kvant::daemon
