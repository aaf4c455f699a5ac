// Time to live, quotas of stores and tenants, pins, and eviction by filter: what goes, what stays, and whose.
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "daemon/store/block_selection.h"
#include "daemon/store/pins.h"
#include "protocol/digest.h"
#include "tests/daemon/core_support.h"

namespace kvant::daemon {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

constexpr std::uint32_t kBlock = 16;
const SequenceConfig kConfig{.recent_tokens = 0, .max_step_tokens = 16, .client = "test", .label = ""};

template <typename Fill>
BlockSelection Meant(const Fill& fill) {
  BlockSelection selection;
  fill(selection);
  return selection;
}

struct RetentionTest : testing::Test {
  TestCore core;

  std::shared_ptr<Store> Open(const std::string& name, const std::string& tenant = StoreTable::kNobody) {
    StoreSpec spec = SmallSpec(name);
    spec.salt = name;
    spec.sink_tokens = 0;
    return core.stores.Open(spec, tenant).value().store;
  }
  /// A sequence of so many sealed blocks.
  TestSequence Write(const std::shared_ptr<Store>& store, std::size_t blocks, std::uint32_t seed) {
    TestSequence sequence = TestSequence::Open(store, {}, kConfig);
    const auto tokens = Tokens(blocks * kBlock, seed);
    for (std::size_t i = 0; i < blocks; ++i) {
      sequence.Advance(std::span(tokens).subspan(i * kBlock, kBlock));
      core.encode.RunAll();
      core.populate.RunAll();
    }
    return sequence;
  }
  /// The same, closed: how many of its blocks are there.
  std::size_t Seal(const std::shared_ptr<Store>& store, std::size_t blocks, std::uint32_t seed) {
    return Write(store, blocks, seed).sequence->sealed_blocks();
  }
  static std::size_t Has(const std::shared_ptr<Store>& store, std::size_t blocks, std::uint32_t seed) {
    return store->index().LongestPrefix(store->identity(), Tokens(blocks * kBlock, seed), kBlock).size();
  }
  void ExpectWithinLimits() {
    for (const auto& [name, tenant] : core.stores.tenants()) {
      EXPECT_LE(tenant->budget->used(), tenant->budget->own_limit()) << name;
    }
    EXPECT_LE(core.budget.used(), core.budget.limit());
  }
};

// ------------------------------------------------------------------------------------------------------------ time to live

TEST_F(RetentionTest, BlocksGoOnceNobodyHasUsedThemForTheirTime) {
  core.core.ttl_ms = 1000;
  const auto store = Open("a");
  core.core.eviction.now_ms = 5000;
  Seal(store, 3, 1);
  Seal(store, 2, 2);
  core.core.eviction.now_ms = 5999;
  EXPECT_EQ(core.stores.Tend(0, 100), 0u);
  TestSequence::Open(store, Tokens(2 * kBlock, 2), kConfig);  // a use
  core.core.eviction.now_ms = 6000;
  EXPECT_EQ(core.stores.Tend(0, 100), 3u);
  EXPECT_EQ(Has(store, 3, 1), 0u);
  EXPECT_EQ(Has(store, 2, 2), 2u);
  EXPECT_EQ(store->counters().expired_blocks, 3u);
  core.core.eviction.now_ms = 6999;
  EXPECT_EQ(core.stores.Tend(0, 1), 1u) << "as many as are allowed in one step";
  EXPECT_EQ(Has(store, 2, 2), 1u) << "the last first";
  EXPECT_EQ(core.stores.Tend(0, 100), 1u);
}

TEST_F(RetentionTest, AStoresOwnTimeCountsAndHeldBlocksStay) {
  core.core.ttl_ms = 1000;
  const auto brief = Open("brief");
  const auto forever = Open("forever");
  brief->set_ttl_ms(10);
  forever->set_ttl_ms(0);
  Seal(brief, 1, 1);
  Seal(forever, 1, 1);
  TestSequence held = Write(brief, 2, 2);
  core.core.eviction.now_ms = 100'000;
  EXPECT_EQ(core.stores.Tend(0, 100), 1u);
  EXPECT_EQ(Has(brief, 2, 2), 2u);
  EXPECT_EQ(Has(forever, 1, 1), 1u);
}

// ------------------------------------------------------------------------------------------------------------------ quotas

TEST_F(RetentionTest, AStoreAtItsQuotaEvictsItsOwnBlocksAndNobodyElses) {
  const auto mine = Open("mine");
  const auto other = Open("other");
  Seal(other, 10, 1);  // used longest ago
  Seal(mine, 10, 1);
  mine->Limit(mine->budget().used());
  for (std::uint32_t seed = 2; seed < 6; ++seed) {
    EXPECT_EQ(Seal(mine, 10, seed), 10u);
    EXPECT_LE(mine->budget().used(), mine->budget().own_limit());
    EXPECT_EQ(Has(other, 10, 1), 10u);
  }
  EXPECT_EQ(Has(mine, 10, 1), 0u);
  EXPECT_EQ(other->counters().evicted_blocks, 0u);
}

TEST_F(RetentionTest, AQuotaFullOfHeldBlocksRefusesAndNamesIt) {
  const auto mine = Open("mine");
  const auto other = Open("other");
  Seal(other, 10, 1);
  TestSequence held = Write(mine, 4, 1);
  mine->Limit(mine->budget().used());
  std::optional<Result<Advanced>> answer;
  held.Advance(Tokens(kBlock, 9), &answer, SealWait::kDue);
  core.encode.RunAll();
  ASSERT_TRUE(answer && *answer && (*answer)->seal_error);
  EXPECT_EQ((*answer)->seal_error->code, ErrorCode::kStoreFull);
  EXPECT_THAT((*answer)->seal_error->message, HasSubstr("quota of store mine, a budget of"));
  EXPECT_EQ(Has(other, 10, 1), 10u) << "nobody else gives room";
  mine->Limit(Budget::kUnlimited);
  held.Advance({}, &answer, SealWait::kDue);
  core.encode.RunAll();
  EXPECT_EQ(held.sequence->sealed_blocks(), 5u) << "the same sequence goes on";
}

TEST_F(RetentionTest, ATenantAtItsQuotaGivesFromAllItsStores) {
  const auto old = Open("old", "red");
  const auto now = Open("now", "red");
  const auto blue = Open("blue", "blue");
  Seal(blue, 10, 1);
  Seal(old, 10, 1);
  Seal(now, 1, 1);
  Tenant& red = *core.stores.FindTenant("red");
  core.stores.Limit(red, red.budget->used());
  EXPECT_EQ(Seal(now, 8, 2), 8u);
  ExpectWithinLimits();
  EXPECT_LT(Has(old, 10, 1), 10u);
  EXPECT_EQ(Has(blue, 10, 1), 10u);
}

TEST_F(RetentionTest, ALowerQuotaEvictsWhatIsBeyond) {
  const auto store = Open("a", "red");
  Seal(store, 20, 1);
  TestSequence held = Write(store, 2, 2);
  Tenant& red = *core.stores.FindTenant("red");
  const std::size_t used = red.budget->used();
  core.stores.Limit(red, used / 2);
  EXPECT_LE(red.budget->used(), used / 2);
  EXPECT_EQ(Has(store, 2, 2), 2u);
  EXPECT_GT(Has(store, 20, 1), 0u);
}

TEST_F(RetentionTest, ChargesOfAllLevelsAgreeAndComeToNothingInTheEnd) {
  {
    const auto a = Open("a", "red");
    const auto b = Open("b", "red");
    const auto c = Open("c", "blue");
    Seal(a, 3, 1);
    TestSequence held = Write(c, 3, 1);
    const Budget& red = *core.stores.FindTenant("red")->budget;
    const Budget& blue = *core.stores.FindTenant("blue")->budget;
    EXPECT_EQ(red.used(), a->budget().used() + b->budget().used());
    EXPECT_EQ(blue.used(), c->budget().used());
    EXPECT_EQ(core.budget.used(), red.used() + blue.used());
    for (const Store* const store : core.stores.stores()) {
      const StoreFigures figures = store->Figures();
      EXPECT_EQ(figures.used_bytes, store->budget().used());
      EXPECT_EQ(figures.used_bytes, figures.compressed_bytes + figures.state_bytes + figures.slot_overhead_bytes +
                                        figures.store_record_bytes + figures.block_record_bytes +
                                        figures.sequence_record_bytes + figures.slab_record_bytes);
    }
    core.stores.Close(a);
    core.stores.Close(b);
    held.sequence.reset();
    core.stores.Close(c);
  }
  EXPECT_TRUE(core.stores.Evict(BlockSelection{}, false));
  EXPECT_EQ(core.budget.used(), 0u);
}

// ----------------------------------------------------------------------------------------------------------------- tenants

TEST_F(RetentionTest, TheSameSpecIsAStoreForEachTenant) {
  const auto red = Open("chat", "red");
  const auto blue = Open("chat", "blue");
  EXPECT_NE(red, blue);
  EXPECT_EQ(red->identity(), blue->identity());
  Seal(red, 4, 1);
  EXPECT_EQ(TestSequence::Open(blue, Tokens(4 * kBlock, 1), kConfig).sequence->prefix_hit_tokens(), 0u);
  EXPECT_EQ(core.stores.Find("chat").error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(core.stores.Find("chat").error().message, HasSubstr("blue, red"));
  EXPECT_EQ(core.stores.Find("chat", "red").value(), red.get());
  EXPECT_EQ(core.stores.Find("chat", "green").error().code, ErrorCode::kNotFound);
}

TEST_F(RetentionTest, AnothersSequenceIsAnsweredAsOneThatNeverWas) {
  const TestSequence sequence = Write(Open("chat", "red"), 1, 1);
  const std::uint64_t id = sequence.sequence->id();
  const auto blue = core.stores.FindTenant("blue");
  const SequenceTable& table = core.core.sequences;
  EXPECT_TRUE(table.Find(id, core.stores.FindTenant("red").get()));
  const Error foreign = table.Find(id, blue.get()).error();
  std::uint64_t absent = id ^ 1;
  const Error never = table.Find(absent, blue.get()).error();
  EXPECT_EQ(foreign.code, never.code);
  EXPECT_EQ(foreign.message.substr(foreign.message.find(" is")), never.message.substr(never.message.find(" is")));
}

TEST_F(RetentionTest, IdsDoNotCount) {
  const auto store = Open("a");
  std::vector<std::uint64_t> ids;
  std::vector<TestSequence> open;
  for (int i = 0; i < 8; ++i) {
    open.push_back(TestSequence::Open(store, {}, kConfig));
    ids.push_back(open.back().sequence->id());
  }
  int neighbours = 0;
  for (std::size_t i = 1; i < ids.size(); ++i) neighbours += ids[i] - ids[i - 1] <= 1000 ? 1 : 0;
  EXPECT_LE(neighbours, 1);  // of 2^40 numbers: a neighbour by chance once in 10^8 runs
}

// -------------------------------------------------------------------------------------------------------------------- pins

TEST_F(RetentionTest, PinnedBlocksStayUntilTheirTimeIsOver) {
  const auto store = Open("a");
  Seal(store, 4, 1);
  Seal(store, 4, 2);
  core.core.eviction.now_ms = 1000;
  const auto blocks = MatchBlocks(core.stores, Meant([&](BlockSelection& s) {
                                    s.store = "a";
                                    s.tokens = Tokens(4 * kBlock, 1);
                                  }))
                          .value();
  ASSERT_EQ(blocks.size(), 1u);
  const PinFigures pin = core.stores.pins().Add(blocks, milliseconds(500)).value();
  EXPECT_EQ(pin.blocks, 4u) << "and what it continues";
  EXPECT_EQ(pin.left_ms, 500u);
  EXPECT_EQ(core.stores.pins().bytes(), pin.bytes);
  const EvictFigures evicted = core.stores.Evict(Meant([&](BlockSelection& s) { s.store = "a"; }), false).value();
  EXPECT_EQ(evicted.blocks, 4u);
  EXPECT_EQ(evicted.held, 4u);
  EXPECT_EQ(Has(store, 4, 1), 4u);
  core.core.eviction.now_ms = 1499;
  core.stores.Tend(0, 100);
  EXPECT_EQ(core.stores.pins().list().size(), 1u);
  core.core.eviction.now_ms = 1500;
  core.stores.Tend(0, 100);
  EXPECT_TRUE(core.stores.pins().list().empty());
  EXPECT_EQ(core.stores.pins().bytes(), 0u);
  EXPECT_EQ(store->index().leases(), 0u);
  EXPECT_EQ(core.stores.Evict(Meant([&](BlockSelection& s) { s.store = "a"; }), false)->blocks, 4u);
}

TEST_F(RetentionTest, PinsOverlapAndEndOneByOne) {
  const auto store = Open("a");
  Seal(store, 4, 1);
  const auto pin = [&](std::size_t blocks) {
    return core.stores.pins()
        .Add(MatchBlocks(core.stores, Meant([&](BlockSelection& s) {
                           s.store = "a";
                           s.tokens = Tokens(blocks * kBlock, 1);
                         }))
                 .value(),
             milliseconds(1000))
        .value();
  };
  const PinFigures all = pin(1);  // the first block and all that continue it
  const PinFigures again = pin(4);
  EXPECT_EQ(all.bytes, again.bytes);
  EXPECT_EQ(core.stores.pins().bytes(), all.bytes) << "counted once";
  ASSERT_TRUE(core.stores.pins().Remove(all.id));
  EXPECT_EQ(core.stores.pins().bytes(), all.bytes);
  EXPECT_EQ(core.stores.Evict(BlockSelection{}, false)->blocks, 0u);
  ASSERT_TRUE(core.stores.pins().Remove(again.id));
  EXPECT_EQ(core.stores.pins().Remove(again.id).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(core.stores.Evict(BlockSelection{}, false)->blocks, 4u);
}

TEST_F(RetentionTest, PinsHoldAQuarterOfTheBudgetAtMost) {
  TestCore small(std::size_t{4} << 20);
  StoreSpec spec = SmallSpec("big");
  spec.layers = 16;
  const auto store = small.stores.Open(spec).value().store;
  for (std::uint32_t seed = 1; seed < 20; ++seed) {
    TestSequence sequence = TestSequence::Open(store, {}, kConfig);
    sequence.Advance(Tokens(kBlock, seed));
    small.encode.RunAll();
  }
  const auto all = MatchBlocks(small.stores, {}).value();
  ASSERT_FALSE(all.empty());
  ASSERT_GT(all.size() * store->SlotBytesOf(*all[0]), small.budget.limit() / 4);
  const auto refused = small.stores.pins().Add(all, milliseconds(1000));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kStoreFull);
  EXPECT_THAT(refused.error().message, HasSubstr("a quarter of the budget"));
  EXPECT_EQ(store->index().leases(), 0u);
  EXPECT_TRUE(small.stores.pins().Add({all[0]}, milliseconds(1000)));
  EXPECT_EQ(small.stores.pins().Add({all[0]}, milliseconds(0)).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(small.stores.pins().Add({all[0]}, Pins::kLongest + milliseconds(1)).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(RetentionTest, DropTakesPinsWithIt) {
  const auto store = Open("a");
  Seal(store, 2, 1);
  ASSERT_TRUE(core.stores.pins().Add(MatchBlocks(core.stores, {}).value(), milliseconds(1000)));
  EXPECT_EQ(core.stores.Drop("a")->blocks, 2u);
  EXPECT_TRUE(core.stores.pins().list().empty());
}

// ---------------------------------------------------------------------------------------------------------- evict by filter

TEST_F(RetentionTest, ADryRunSaysExactlyWhatGoes) {
  const auto a = Open("a");
  const auto b = Open("b", "red");
  for (std::uint32_t seed = 1; seed < 5; ++seed) {
    core.core.eviction.now_ms = seed * 1000;
    Seal(a, 3, seed);
    Seal(b, 3, seed);
  }
  core.core.eviction.now_ms = 5000;
  const std::string chain =
      protocol::DigestHex(b->index().LongestPrefix(b->identity(), Tokens(3 * kBlock, 2), kBlock)[1]->chain);
  struct Case {
    BlockSelection selection;
    std::uint64_t blocks;
  };
  const std::vector<Case> cases = {
      {Meant([&](BlockSelection& s) {
         s.store = "a";
         s.tokens = Tokens(2 * kBlock, 1);
       }),
       2},  // the second block and what continues it
      {Meant([&](BlockSelection& s) {
         s.store = "b";
         s.chain = chain;
       }),
       2},
      {Meant([&](BlockSelection& s) { s.idle_ms = 4000; }),
       1 + 3},  // of the first round: what the first case left, and those of b
      {Meant([&](BlockSelection& s) {
         s.tenant = "red";
         s.max_blocks = 2;
       }),
       2},
      {Meant([&](BlockSelection& s) {
         s.store = "a";
         s.max_bytes = 1;
       }),
       1},
      {Meant([&](BlockSelection& s) { s.tenant = "red"; }), 1 + 6 - 2},
      {{}, 8},
  };
  for (std::size_t i = 0; i < cases.size(); ++i) {
    SCOPED_TRACE(i);
    const std::uint64_t before = core.stores.Totals().blocks;
    const EvictFigures said = core.stores.Evict(cases[i].selection, true).value();
    EXPECT_EQ(core.stores.Totals().blocks, before);
    const EvictFigures done = core.stores.Evict(cases[i].selection, false).value();
    EXPECT_EQ(said.blocks, done.blocks);
    EXPECT_EQ(said.bytes, done.bytes);
    EXPECT_EQ(done.blocks, cases[i].blocks);
    EXPECT_EQ(core.stores.Totals().blocks, before - done.blocks);
  }
  EXPECT_EQ(core.stores.Totals().blocks, 0u);
}

TEST_F(RetentionTest, FiltersThatMeanNothingSaySo) {
  const auto store = Open("a");
  Seal(store, 2, 1);
  const auto code = [&](const BlockSelection& selection) { return core.stores.Evict(selection, true).error().code; };
  EXPECT_EQ(code(Meant([&](BlockSelection& s) { s.tenant = "nobody"; })), ErrorCode::kNotFound);
  EXPECT_EQ(code(Meant([&](BlockSelection& s) { s.store = "b"; })), ErrorCode::kNotFound);
  EXPECT_EQ(code(Meant([&](BlockSelection& s) {
              s.store = "a";
              s.chain = "00";
            })),
            ErrorCode::kNotFound);
  EXPECT_EQ(code(Meant([&](BlockSelection& s) {
              s.store = "a";
              s.tokens = Tokens(3 * kBlock, 1);
            })),
            ErrorCode::kNotFound);
  EXPECT_EQ(code(Meant([&](BlockSelection& s) {
              s.store = "a";
              s.tokens = Tokens(kBlock - 1, 1);
            })),
            ErrorCode::kNotFound);
  EXPECT_EQ(code(Meant([&](BlockSelection& s) { s.chain = "00"; })), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code(Meant([](BlockSelection& s) { s.sequence = 7; })), ErrorCode::kStaleDaemon);
}

TEST_F(RetentionTest, BlocksOfASequenceGoOnceItIsClosedUnlessSomebodyFindsThem) {
  const auto store = Open("a");
  TestSequence first = Write(store, 3, 1);
  TestSequence second = Write(store, 3, 2);
  for (const TestSequence* sequence : {&first, &second}) {
    const EvictFigures figures =
        core.stores.Evict(Meant([&](BlockSelection& s) { s.sequence = sequence->sequence->id(); }), false).value();
    EXPECT_EQ(figures.blocks, 0u);
    EXPECT_EQ(figures.held, 3u);
  }
  const TestSequence found = TestSequence::Open(store, Tokens(3 * kBlock, 2), kConfig);
  first.sequence.reset();
  second.sequence.reset();
  EXPECT_EQ(core.stores.Tend(0, 100), 3u);
  EXPECT_EQ(Has(store, 3, 1), 0u);
  EXPECT_EQ(Has(store, 3, 2), 3u);
}

// -------------------------------------------------------------------------------------------------------- ahead of need

TEST_F(RetentionTest, RoomIsMadeAheadOfNeedAndASmallCacheIsLeftAlone) {
  const auto store = Open("a");
  for (std::uint32_t seed = 1; seed <= 100; ++seed) Seal(store, 1, seed);
  const std::size_t reserve = core.budget.available() + store->pool().warm_bytes() + 10 * store->slot_bytes();
  EXPECT_GE(core.stores.Tend(reserve, 1000), 9u);
  EXPECT_GE(core.budget.available() + store->pool().warm_bytes(), reserve);
  EXPECT_EQ(core.stores.Tend(reserve, 1000), 0u);
  EXPECT_EQ(Has(store, 1, 1), 0u);
  EXPECT_EQ(Has(store, 1, 100), 1u);
  core.stores.Tend(core.budget.limit(), 1000);
  EXPECT_EQ(store->Figures().blocks, 32u);
}

TEST(RetentionNoneTest, NothingGoesToMakeRoom) {
  TestCore core(Budget::kMinimumBytes, EvictionKind::kNone);
  StoreSpec spec = SmallSpec("a");
  spec.layers = 16;
  const auto store = core.stores.Open(spec).value().store;
  std::uint32_t sealed = 0;
  for (std::uint32_t seed = 1; seed < 60; ++seed) {
    TestSequence sequence = TestSequence::Open(store, {}, kConfig);
    std::optional<Result<Advanced>> answer;
    sequence.Advance(Tokens(kBlock, seed), &answer, SealWait::kDue);
    core.encode.RunAll();
    if (!(*answer)->seal_error) {
      ++sealed;
      continue;
    }
    EXPECT_EQ((*answer)->seal_error->code, ErrorCode::kStoreFull);
  }
  EXPECT_GT(sealed, 5u);
  EXPECT_LT(sealed, 59u);
  EXPECT_EQ(store->Figures().blocks, sealed);
  EXPECT_EQ(store->counters().evicted_blocks, 0u);
}

}  // namespace
}  // namespace kvant::daemon
