// What a daemon takes note of for its operators: how searches end, how long blocks live, which were wanted after their
// eviction, whose limit refused. Times are the test's own.
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "daemon/store/event_stream.h"
#include "tests/daemon/core_support.h"

namespace kvant::daemon {
namespace {

using ::testing::ElementsAre;

constexpr std::uint32_t kBlock = 16;
const SequenceConfig kConfig{.recent_tokens = 0, .max_step_tokens = 16, .client = "test", .label = ""};

std::uint64_t CountOf(const TimeHistogram& histogram) {
  return std::accumulate(histogram.counts.begin(), histogram.counts.end(), std::uint64_t{0});
}

struct StoreHistoryTest : testing::Test {
  TestCore core;
  History& history = core.core.history;

  void SetUp() override {
    auto charge = core.budget.Take(ChargeKind::kMetadata, 1024 * EvictedBlocks::kEntryBytes, "test");
    history.evicted = EvictedBlocks(*std::move(charge));
  }

  std::shared_ptr<Store> Open(const std::string& name, const std::string& tenant = StoreTable::kNobody) {
    StoreSpec spec = SmallSpec(name);
    spec.salt = name;  // a name is no part of the identity
    spec.sink_tokens = 0;
    return core.stores.Open(spec, tenant).value().store;
  }
  /// Seals blocks of these tokens and closes their sequence.
  void Seal(const std::shared_ptr<Store>& store, const std::vector<std::uint32_t>& tokens) {
    TestSequence sequence = TestSequence::Open(store, {}, kConfig);
    for (std::size_t i = 0; i + kBlock <= tokens.size(); i += kBlock) {
      sequence.Advance(std::span(tokens).subspan(i, kBlock));
      core.encode.RunAll();
      core.populate.RunAll();
    }
  }
  /// Opens and closes a sequence; how many of its tokens were found.
  std::uint64_t Look(const std::shared_ptr<Store>& store, const std::vector<std::uint32_t>& tokens, bool want_state = false) {
    SequenceConfig config = kConfig;
    config.want_state = want_state;
    return TestSequence::Open(store, tokens, config).sequence->length();
  }
  std::vector<std::uint64_t> Ends() const {
    const LookupEnds& ends = history.lookup_ends;
    return {ends.complete, ends.unknown, ends.evicted, ends.corrupt, ends.no_state};
  }
};

TEST_F(StoreHistoryTest, ASearchEndsForOneReason) {
  const auto store = Open("s");
  const auto tokens = Tokens(4 * kBlock);
  Seal(store, tokens);  // opens with no tokens: nothing more could be found
  EXPECT_THAT(Ends(), ElementsAre(1, 0, 0, 0, 0));
  EXPECT_EQ(Look(store, tokens), 4 * kBlock);
  EXPECT_THAT(Ends(), ElementsAre(2, 0, 0, 0, 0));
  EXPECT_EQ(Look(store, Tokens(5 * kBlock)), 4 * kBlock);
  EXPECT_THAT(Ends(), ElementsAre(2, 1, 0, 0, 0));
  EXPECT_EQ(Look(store, tokens, true), 0U);
  EXPECT_THAT(Ends(), ElementsAre(2, 1, 0, 0, 1));
  store->Evict(*store->index().oldest());
  EXPECT_EQ(Look(store, tokens), 3 * kBlock);
  EXPECT_THAT(Ends(), ElementsAre(2, 1, 1, 0, 1));
  store->index().LongestPrefix(store->identity(), tokens, kBlock).back()->unchecked = true;
  Block& last = *store->index().LongestPrefix(store->identity(), tokens, kBlock).back();
  const_cast<std::byte*>(last.codes().payload)[0] ^= std::byte{1};  // NOLINT: a fault of the memory's
  EXPECT_EQ(Look(store, tokens), 2 * kBlock);
  EXPECT_THAT(Ends(), ElementsAre(2, 1, 1, 1, 1));
}

TEST_F(StoreHistoryTest, BlocksThatWereWantedAfterTheirEvictionAreCountedOnceASearch) {
  const auto store = Open("s");
  const auto tokens = Tokens(6 * kBlock);
  core.core.eviction.now_ms = 1'000;
  Seal(store, tokens);
  core.core.eviction.now_ms = 11'000;
  for (int i = 0; i < 4; ++i) store->Evict(*store->index().oldest());
  EXPECT_EQ(store->counters().evicted_then_wanted_blocks, 0U);
  core.core.eviction.now_ms = 81'000;
  EXPECT_EQ(Look(store, Tokens(8 * kBlock)), 2 * kBlock);  // two more than there ever were
  EXPECT_EQ(store->counters().evicted_then_wanted_blocks, 4U);
  EXPECT_EQ(history.times.missed.counts[4], 4U) << "70 s: above a minute, within five";
  EXPECT_EQ(history.times.missed.sum_ms, 4U * 70'000);
  EXPECT_EQ(core.stores.Totals().counters.evicted_then_wanted_blocks, 4U);
  // Another tenant's blocks of the same tokens never were there.
  const auto other = Open("s", "other");
  EXPECT_EQ(Look(other, tokens), 0U);
  EXPECT_EQ(other->counters().evicted_then_wanted_blocks, 0U);
}

TEST_F(StoreHistoryTest, TimesOfBlocksFallIntoTheirBuckets) {
  const auto store = Open("s");
  const auto tokens = Tokens(kBlock);
  core.core.eviction.now_ms = 1'000;
  Seal(store, tokens);
  core.core.eviction.now_ms = 6'000;
  Look(store, tokens);  // 5 s after it was let go: the bound is of its bucket
  EXPECT_EQ(CountOf(history.times.reuse), 1U);
  EXPECT_EQ(history.times.reuse.counts[1], 1U);
  EXPECT_EQ(CountOf(history.times.lifetime), 0U);
  core.core.eviction.now_ms = 21'001;
  store->Evict(*store->index().oldest());
  EXPECT_EQ(history.times.lifetime.counts[3], 1U) << "20.001 s";
  EXPECT_EQ(history.times.lifetime.sum_ms, 20'001U);
  EXPECT_EQ(history.times.idle.counts[3], 1U) << "15.001 s";
  EXPECT_EQ(history.times.idle.sum_ms, 15'001U);
  TimeHistogram histogram;
  histogram.Add(0);
  histogram.Add(~std::uint64_t{0} / 2);
  EXPECT_EQ(histogram.counts.front(), 1U);
  EXPECT_EQ(histogram.counts.back(), 1U);
}

TEST_F(StoreHistoryTest, ARefusalForWantOfRoomNamesWhoseLimitItIs) {
  const auto store = Open("s", "tenant");
  store->Limit(store->budget().used());
  TestSequence sequence;
  const auto open = [&] { return Sequence::Open(store, {}, MakeTail(store->spec(), kConfig), kConfig); };
  EXPECT_FALSE(open());
  EXPECT_EQ(history.room_refusals.store_quota, 1U);
  store->Limit(Budget::kUnlimited);
  store->tenant()->budget->set_own_limit(store->tenant()->budget->used());
  EXPECT_FALSE(open());
  EXPECT_EQ(history.room_refusals.tenant_quota, 1U);
  store->tenant()->budget->set_own_limit(Budget::kUnlimited);
  core.budget.set_own_limit(core.budget.used());
  EXPECT_FALSE(open());
  EXPECT_EQ(history.room_refusals.budget, 1U);
  core.budget.set_own_limit(Budget::kUnlimited);
  EXPECT_TRUE(open());
  EXPECT_EQ(history.room_refusals.store_quota + history.room_refusals.tenant_quota + history.room_refusals.budget, 3U);
}

TEST_F(StoreHistoryTest, WhoWatchesHearsOfEachBlockAndStore) {
  const auto early = Open("early");
  Seal(early, Tokens(kBlock));
  const auto watcher = core.core.events.Watch();
  const auto store = Open("s");
  Seal(store, Tokens(2 * kBlock));
  store->Evict(*store->index().oldest());
  EXPECT_TRUE(core.stores.Drop("s"));
  std::vector<std::string> kinds;
  for (const auto& event : watcher->Take(100).events) kinds.emplace_back(event->kind);
  EXPECT_THAT(kinds,
              ElementsAre("store_opened", "block_sealed", "block_sealed", "block_evicted", "block_evicted", "store_dropped"));
}

TEST(EventStreamTest, ASlowWatcherLosesTheNewerEventsAndIsToldHowManyInTheirPlace) {
  EventStream events;
  const auto slow = events.Watch();
  const auto quick = events.Watch();
  std::uint64_t heard = 0;
  for (std::uint64_t i = 0; i < Watcher::kMostEvents + 10; ++i) {
    events.Tell("tick", {{"i", i}});
    heard += quick->Take(1).events.size();
  }
  EXPECT_EQ(heard, Watcher::kMostEvents + 10);
  auto some = slow->Take(100);
  EXPECT_EQ(some.events.size(), 100U);
  EXPECT_EQ(some.lost, 0U) << "not here: those that were lost come after all that wait";
  events.Tell("tick", {{"i", std::uint64_t{0}}});  // lost, too, although there is room again: the gap is one
  auto rest = slow->Take(Watcher::kMostEvents);
  EXPECT_EQ(rest.events.size(), Watcher::kMostEvents - 100);
  EXPECT_EQ(rest.events.back()->number, Watcher::kMostEvents);
  EXPECT_EQ(rest.lost, 11U);
  events.Tell("tick", {{"i", std::uint64_t{1}}});
  const auto next = slow->Take(10);
  ASSERT_EQ(next.events.size(), 1U);
  EXPECT_EQ(next.events[0]->number, Watcher::kMostEvents + 12);
  EXPECT_EQ(next.lost, 0U);
}

TEST(EventStreamTest, WatchersAreFewTextsAreShortAndWhoGoesIsForgotten) {
  EventStream events;
  EXPECT_FALSE(events.watched());
  events.Tell("unheard", {});
  {
    std::vector<std::shared_ptr<Watcher>> watchers;
    for (std::size_t i = 0; i < EventStream::kMostWatchers; ++i) watchers.push_back(events.Watch());
    EXPECT_NE(watchers.back(), nullptr);
    EXPECT_EQ(events.Watch(), nullptr);
    events.Tell("long", {{"text", std::string(10'000, 'x')}});
    EXPECT_EQ(std::get<std::string>(watchers[0]->Take(1).events.at(0)->fields.at(0).value).size(), EventStream::kMostText);
  }
  events.Tell("unheard", {});
  EXPECT_FALSE(events.watched());
  EXPECT_NE(events.Watch(), nullptr);
}

}  // namespace
}  // namespace kvant::daemon
