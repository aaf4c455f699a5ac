// A store rebuilt from nothing but descriptors.
#include "daemon/store/restore.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/block_format.h"
#include "protocol/manifest.h"
#include "protocol/mapped_segment.h"
#include "tests/daemon/core_support.h"

namespace kvant::daemon {
namespace {

constexpr SequenceConfig kConfig{.recent_tokens = 20, .max_step_tokens = 24, .client = "test", .label = ""};

/// Descriptors that outlive the daemon's core that made what they name.
struct Descriptors {
  protocol::UniqueFd manifest;
  std::vector<protocol::UniqueFd> slabs;

  [[nodiscard]] std::vector<int> numbers() const {
    std::vector<int> list;
    for (const protocol::UniqueFd& fd : slabs) list.push_back(fd.get());
    return list;
  }
  [[nodiscard]] wire::Manifest read() const { return wire::ReadManifestSegment(manifest.get()).value(); }
};

Descriptors Duplicate(Store& store) {
  Descriptors copies;
  copies.manifest = protocol::UniqueFd(::dup(store.manifest_fd()));
  for (const auto& slab : store.slabs(0)) copies.slabs.emplace_back(::dup(slab->read_only_fd()));
  return copies;
}

void Grow(TestCore& core, TestSequence& sequence, const std::vector<std::uint32_t>& tokens) {
  while (sequence.tokens.size() < tokens.size()) {
    const std::size_t step = std::min<std::size_t>(kConfig.max_step_tokens, tokens.size() - sequence.tokens.size());
    sequence.Advance(std::span(tokens).subspan(sequence.tokens.size(), step));
    core.encode.RunAll();
  }
}

/// A core that ends without giving its memory back, as a killed process does: slabs are punched when their pool ends, so the
/// descriptors must be taken from a core that is still there.
struct RestoreTest : testing::Test {
  TestCore before;
  std::shared_ptr<Store> store = before.stores.Open(SmallSpec()).value().store;
  const std::vector<std::uint32_t> tokens = Tokens(130);
  Descriptors descriptors;

  RestoreTest() {
    TestSequence first = TestSequence::Open(store, {}, kConfig);
    Grow(before, first, tokens);
    auto other = tokens;  // a branch behind two blocks
    for (std::size_t i = 40; i < other.size(); ++i) ++other[i];
    TestSequence second = TestSequence::Open(store, other, kConfig);
    Grow(before, second, other);
    descriptors = Duplicate(*store);
  }
};

TEST_F(RestoreTest, AnswersAPrefixLookupWithTheSameBlocks) {
  TestCore after;
  const Result<RestoredStore> restored =
      RestoreStore(after.stores, descriptors.read(), descriptors.numbers(), CheckPayload::kNow);
  ASSERT_TRUE(restored.has_value()) << restored.error().message;
  EXPECT_EQ(restored->dropped_parts, 0u);
  EXPECT_EQ(restored->blocks, store->index().size());
  EXPECT_EQ(restored->store->identity(), store->identity());
  EXPECT_EQ(restored->store->plan()->canonical(), store->plan()->canonical());
  EXPECT_EQ(restored->store->pool().resident_bytes(), after.budget.slab_bytes());  // no more exists than is charged
  EXPECT_LE(after.budget.slab_bytes(), before.budget.slab_bytes());
  for (const Block* block : store->index().blocks()) {
    const auto prefix = restored->store->index().blocks();
    const auto same = std::ranges::find(prefix, block->chain, &Block::chain);
    ASSERT_NE(same, prefix.end());
    EXPECT_EQ((*same)->tokens, block->tokens);
    EXPECT_EQ((*same)->first_position, block->first_position);
    EXPECT_EQ((*same)->generation, block->generation);
    ASSERT_EQ((*same)->parts.size(), block->parts.size());
    for (std::size_t i = 0; i < block->parts.size(); ++i) {
      EXPECT_EQ((*same)->parts[i].slot, block->parts[i].slot);
      EXPECT_EQ(std::memcmp((*same)->parts[i].payload, block->parts[i].payload, block->parts[i].payload_bytes), 0);
    }
  }
  // And a sequence over them reads exactly the rows that were written, then goes on.
  TestSequence sequence = TestSequence::Open(restored->store, tokens, kConfig);
  EXPECT_EQ(sequence.sequence->length(), store->index().LongestPrefix(store->identity(), tokens, 16).size() * 16);
  EXPECT_GE(sequence.sequence->length(), 96u);
  EXPECT_EQ(sequence.Fault(), "");
  Grow(after, sequence, Tokens(200));
  EXPECT_EQ(sequence.Fault(), "");
}

TEST_F(RestoreTest, ADamagedBlockAndWhatFollowsItAreDropped) {
  const auto prefix = store->index().LongestPrefix(store->identity(), tokens, 16);
  ASSERT_GE(prefix.size(), 6u);
  const_cast<std::byte*>(prefix[3]->codes().payload)[5] ^= std::byte{1};
  TestCore after;
  const RestoredStore restored =
      RestoreStore(after.stores, descriptors.read(), descriptors.numbers(), CheckPayload::kNow).value();
  EXPECT_EQ(restored.store->index().LongestPrefix(store->identity(), tokens, 16).size(), 3u);
  EXPECT_EQ(restored.dropped_parts, prefix.size() - 3);
  // The dropped ones' memory is free: nothing exists that is not charged.
  EXPECT_EQ(restored.store->pool().resident_bytes(), restored.store->pool().held_bytes());
}

TEST_F(RestoreTest, ABlockWithoutItsSinksIsNotWhole) {
  const auto prefix = store->index().LongestPrefix(store->identity(), tokens, 16);
  const_cast<std::byte*>(prefix[0]->sinks()->payload)[5] ^= std::byte{1};
  TestCore after;
  const RestoredStore restored =
      RestoreStore(after.stores, descriptors.read(), descriptors.numbers(), CheckPayload::kNow).value();
  EXPECT_EQ(restored.blocks, 0u);
  EXPECT_EQ(after.budget.metadata_bytes() > 0, true);
}

/// Puts a state at the end of the sequence, as a job would.
void PutState(TestSequence& sequence, const std::vector<std::byte>& bytes) {
  Store& of = sequence.sequence->store();
  NewState state = sequence.sequence->ReserveState(bytes.size()).value();
  ASSERT_NE(state.slot, nullptr);
  std::byte* const slot = state.slot->slab()->slot(state.slot->slot().slot);
  ASSERT_TRUE(state.slot->slab()->Populate(state.slot->slot().slot));
  std::memcpy(slot + protocol::PayloadOffset(of.spec().block_tokens), bytes.data(), bytes.size());
  protocol::FinishSlot(slot, of.spec().block_tokens, state.info, state.tokens, bytes.size());
  sequence.sequence->KeepState(state.block, state.slot);
}

TEST_F(RestoreTest, StatesComeBackWithTheirBlocks) {
  const std::vector<std::byte> kept(5000, std::byte{7}), damaged(7000, std::byte{8}), lost(9000, std::byte{9});
  auto text = Tokens(130, 5);
  TestSequence sequence = TestSequence::Open(store, text, kConfig);
  Grow(before, sequence, {text.begin(), text.begin() + 16});
  PutState(sequence, kept);
  Grow(before, sequence, {text.begin(), text.begin() + 48});
  PutState(sequence, damaged);
  Grow(before, sequence, {text.begin(), text.begin() + 128});
  PutState(sequence, lost);  // its block is not sealed
  const auto prefix = store->index().LongestPrefix(store->identity(), text, 16);
  ASSERT_GE(prefix.size(), 5u);
  ASSERT_NE(prefix[0]->state, nullptr);
  ASSERT_NE(prefix[2]->state, nullptr);
  const StateSlot& broken = *prefix[2]->state;
  broken.slab()->slot(broken.slot().slot)[protocol::PayloadOffset(16) + 100] ^= std::byte{1};
  EXPECT_FALSE(store->Inspect(*prefix[2]).checksum_ok);
  descriptors = Duplicate(*store);

  TestCore after;
  const RestoredStore restored =
      RestoreStore(after.stores, descriptors.read(), descriptors.numbers(), CheckPayload::kNow).value();
  EXPECT_EQ(restored.dropped_parts, 2u);
  EXPECT_EQ(restored.store->Figures().states, 1u);
  EXPECT_EQ(restored.store->Figures().state_bytes, kept.size());
  SequenceConfig config = kConfig;
  config.want_state = true;
  TestSequence again = TestSequence::Open(restored.store, text, config);
  EXPECT_EQ(again.sequence->length(), 16u);
  const auto newest = again.sequence->NewestState();
  ASSERT_TRUE(newest);
  EXPECT_EQ(newest->length, 16u);
  ASSERT_EQ(newest->slot->bytes(), kept.size());
  const std::byte* const bytes = newest->slot->slab()->slot(newest->slot->slot().slot) + protocol::PayloadOffset(16);
  EXPECT_EQ(std::memcmp(bytes, kept.data(), kept.size()), 0);
  EXPECT_EQ(restored.store->pool().resident_bytes(), after.budget.slab_bytes());
}

TEST_F(RestoreTest, ADamagedManifestIsRefused) {
  auto mapped = protocol::MapWhole(descriptors.manifest.get(), protocol::Access::kReadOnly).value();
  std::vector<std::byte> bytes(mapped.data(), mapped.data() + mapped.size());
  ASSERT_TRUE(wire::ReadManifest(bytes).has_value());
  for (std::size_t at = 0; at < bytes.size(); at += at < 512 ? 1 : 97) {
    auto damaged = bytes;
    damaged[at] ^= std::byte{0x10};
    const Result<wire::Manifest> read = wire::ReadManifest(damaged);
    ASSERT_FALSE(read.has_value()) << at;
    EXPECT_TRUE(read.error().code == ErrorCode::kCorrupt || read.error().code == ErrorCode::kVersionMismatch) << at;
  }
  EXPECT_FALSE(wire::ReadManifest(std::span(bytes).first(100)).has_value());
}

TEST_F(RestoreTest, ASmallerBudgetKeepsWhatFits) {
  TestCore after(Budget::kMinimumBytes);
  const Charge most = after.budget.Take(ChargeKind::kMetadata, after.budget.available() - (100 << 10), "the test").value();
  const Result<RestoredStore> restored =
      RestoreStore(after.stores, descriptors.read(), descriptors.numbers(), CheckPayload::kNow);
  ASSERT_TRUE(restored.has_value()) << restored.error().message;
  EXPECT_GT(restored->blocks, 0u);
  EXPECT_GT(restored->dropped_parts, 0u);
  EXPECT_LE(after.budget.available(), after.budget.limit());
}

}  // namespace
}  // namespace kvant::daemon
