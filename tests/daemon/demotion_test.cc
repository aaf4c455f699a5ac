// Sealed blocks that are cut down to their first planes: what is left, what it is charged, and who must not be surprised.
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

#include "daemon/store/restore.h"
#include "quantizers/sequence/decode.h"
#include "tests/daemon/core_support.h"

namespace kvant::daemon {
namespace {

constexpr SequenceConfig kConfig{.recent_tokens = 20, .max_step_tokens = 24, .client = "test", .label = ""};
constexpr std::uint32_t kBlockTokens = 128;

StoreSpec PlanesSpec() {
  StoreSpec spec = SmallSpec();
  spec.head_dim = 64;
  spec.block_tokens = kBlockTokens;
  spec.plan.keys = "turboquant_mse:bits=8,planes=1";
  spec.plan.values = "turboquant_mse:bits=4,planes=1";
  return spec;
}

struct DemotionTest : testing::Test {
  TestCore core;
  std::shared_ptr<Store> store = core.stores.Open(PlanesSpec()).value().store;
  const std::vector<std::uint32_t> tokens = Tokens(4 * kBlockTokens + 50);

  /// Seals four blocks, or finds them, and goes.
  void Fill() {
    TestSequence sequence = TestSequence::Open(store, tokens, kConfig);
    Grow(sequence);
  }
  void Grow(TestSequence& sequence) {
    while (sequence.tokens.size() < tokens.size()) {
      const std::size_t step = std::min<std::size_t>(kConfig.max_step_tokens, tokens.size() - sequence.tokens.size());
      sequence.Advance(std::span(tokens).subspan(sequence.tokens.size(), step));
      core.encode.RunAll();
      core.populate.RunAll();
    }
  }
  [[nodiscard]] std::vector<Block*> Chain() const {
    return store->index().LongestPrefix(store->identity(), tokens, kBlockTokens);
  }
  /// All rows of a payload read with so many sections.
  [[nodiscard]] std::vector<float> Decode(const std::byte* payload, std::size_t sections) const {
    quantizers::BlockDecoder decoder(*store->plan());
    std::vector<float> all;
    for (const quantizers::Side side : {quantizers::Side::kKeys, quantizers::Side::kValues}) {
      const float* rows = decoder.Decode({.payload = payload,
                                          .sections = sections,
                                          .sinks = {},
                                          .layer = 1,
                                          .head = 1,
                                          .side = side,
                                          .begin = 0,
                                          .end = kBlockTokens});
      all.insert(all.end(), rows, rows + std::size_t{kBlockTokens} * 64);
    }
    return all;
  }
  void ExpectNothingExistsThatIsNotCharged() const {
    EXPECT_EQ(store->pool().resident_bytes(), store->pool().held_bytes());
    EXPECT_EQ(store->pool().held_bytes(), core.budget.slab_bytes());
  }
};

TEST_F(DemotionTest, LeavesTheFirstSectionsAndGivesTheRestBack) {
  Fill();
  const std::vector<Block*> chain = Chain();
  ASSERT_EQ(chain.size(), 4U);
  const quantizers::Plan& plan = *store->plan();
  ASSERT_EQ(plan.sections(), 8U);
  const std::vector<std::byte> before(chain[1]->codes().payload, chain[1]->codes().payload + plan.payload_bytes());
  const std::uint64_t compressed = store->Figures().compressed_bytes;
  store->GiveBack(~std::size_t{0});
  const std::size_t held = core.budget.slab_bytes();

  const DemoteFigures figures = store->Demote({.sections = 3}).value();
  EXPECT_EQ(figures.blocks, 4U);
  EXPECT_EQ(figures.corrupt, 0U);
  EXPECT_GT(figures.bytes, 0U);
  EXPECT_EQ(core.budget.slab_bytes(), held - figures.bytes);
  ExpectNothingExistsThatIsNotCharged();
  EXPECT_EQ(compressed - store->Figures().compressed_bytes, 4 * (plan.payload_bytes() - plan.section_end(2)));
  for (const Block* block : Chain()) {
    EXPECT_EQ(block->codes().sections, 3);
    EXPECT_TRUE(store->Inspect(*block).checksum_ok);
  }
  const std::byte* left = chain[1]->codes().payload;
  EXPECT_EQ(std::memcmp(left, before.data(), plan.section_end(2)), 0);
  EXPECT_EQ(Decode(left, 3), Decode(before.data(), 3));
  EXPECT_NE(Decode(before.data(), 3), Decode(before.data(), 8));

  // Further down; never up.
  EXPECT_GE(store->Demote(*chain[1], 1).value(), 0U);
  EXPECT_EQ(chain[1]->codes().sections, 1);
  EXPECT_EQ(store->Demote(*chain[1], 8).value(), 0U);
  EXPECT_EQ(chain[1]->codes().sections, 1);
  EXPECT_TRUE(store->Inspect(*chain[1]).checksum_ok);
  ExpectNothingExistsThatIsNotCharged();
}

TEST_F(DemotionTest, SlotsOfDemotedBlocksTakeWholeBlocksAgain) {
  Fill();
  ASSERT_TRUE(store->Demote({.sections = 1}));
  EXPECT_EQ(store->EvictAll().blocks, 4U);
  EXPECT_EQ(core.budget.slab_bytes(), 0U);
  ExpectNothingExistsThatIsNotCharged();
  Fill();
  ASSERT_EQ(Chain().size(), 4U);
  for (const Block* block : Chain()) EXPECT_TRUE(store->Inspect(*block).checksum_ok);
  ASSERT_TRUE(store->Demote(*Chain()[0], 2));
  ASSERT_TRUE(store->Demote(*Chain()[3], 1));
  store->Evict(*Chain()[3]);
  Fill();
  ASSERT_EQ(Chain().size(), 4U);
  EXPECT_EQ(Chain()[0]->codes().sections, 2);
  EXPECT_EQ(Chain()[3]->codes().sections, 8);
  for (const Block* block : Chain()) EXPECT_TRUE(store->Inspect(*block).checksum_ok);
  store->GiveBack(~std::size_t{0});
  ExpectNothingExistsThatIsNotCharged();
}

TEST_F(DemotionTest, BlocksThatSomebodyMayReadAreLeftAlone) {
  Fill();
  const std::vector<Block*> chain = Chain();
  store->index().AddLease(*chain[2]);  // as whoever reads a sequence beside the loop: the last block keeps those before it
  for (const std::size_t i : {0U, 1U, 2U}) {
    const auto refused = store->Demote(*chain[i], 2);
    ASSERT_FALSE(refused) << i;
    EXPECT_EQ(refused.error().code, ErrorCode::kUnavailable);
    EXPECT_NE(refused.error().message.find("position " + std::to_string(i * kBlockTokens)), std::string::npos);
  }
  EXPECT_EQ(store->Demote({.sections = 2, .dry_run = true}).value().blocks, 1U);
  EXPECT_EQ(store->Demote({.sections = 2}).value().blocks, 1U);  // the one behind
  EXPECT_EQ(chain[2]->codes().sections, 8);
  EXPECT_EQ(chain[3]->codes().sections, 2);
  store->index().DropLease(*chain[2]);
  EXPECT_EQ(store->Demote({.sections = 2, .max_blocks = 2}).value().blocks, 2U);
  EXPECT_EQ(store->Demote({.sections = 0}).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(DemotionTest, ADamagedBlockIsNotGivenAFreshChecksum) {
  Fill();
  Block& block = *Chain()[1];
  const_cast<std::byte*>(block.codes().payload)[7] ^= std::byte{1};
  EXPECT_EQ(store->Demote(block, 2).error().code, ErrorCode::kCorrupt);
  EXPECT_EQ(block.codes().sections, 8);
  EXPECT_FALSE(store->Inspect(block).checksum_ok);
  const DemoteFigures figures = store->Demote({.sections = 2}).value();
  EXPECT_EQ(figures.blocks, 3U);
  EXPECT_EQ(figures.corrupt, 1U);
}

TEST_F(DemotionTest, IsStillThereAfterARestore) {
  Fill();
  ASSERT_TRUE(store->Demote(*Chain()[0], 4));
  ASSERT_TRUE(store->Demote(*Chain()[2], 1));
  store->GiveBack(~std::size_t{0});
  std::vector<protocol::UniqueFd> slabs;
  std::vector<int> numbers;
  for (const auto& slab : store->slabs(0)) numbers.push_back(slabs.emplace_back(::dup(slab->read_only_fd())).get());
  TestCore after;
  const RestoredStore restored =
      RestoreStore(after.stores, wire::ReadManifestSegment(store->manifest_fd()).value(), numbers, CheckPayload::kNow).value();
  EXPECT_EQ(restored.blocks, 4U);
  EXPECT_EQ(restored.dropped_parts, 0U);
  EXPECT_EQ(restored.store->pool().resident_bytes(), after.budget.slab_bytes());
  EXPECT_EQ(after.budget.slab_bytes(), core.budget.slab_bytes());
  EXPECT_EQ(restored.store->Figures().compressed_bytes, store->Figures().compressed_bytes);
  const auto found = restored.store->index().LongestPrefix(store->identity(), tokens, kBlockTokens);
  ASSERT_EQ(found.size(), 4U);
  const std::vector<std::uint8_t> sections = {4, 8, 1, 8};
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_EQ(found[i]->codes().sections, sections[i]);
    EXPECT_EQ(Decode(found[i]->codes().payload, sections[i]), Decode(Chain()[i]->codes().payload, sections[i]));
  }
}

}  // namespace
}  // namespace kvant::daemon
