// Quotas, times to live and pins that operators set, over stores that go and come and over daemons that die.
#include "daemon/store/standing_rules.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "daemon/store/held_stores.h"
#include "tests/daemon/core_support.h"
#include "tests/daemon/shelf.h"

namespace kvant::daemon {
namespace {

using std::chrono::hours;
using std::chrono::milliseconds;

constexpr SequenceConfig kConfig{.recent_tokens = 20, .max_step_tokens = 24, .client = "test", .label = ""};

NumberedRules Sample() {
  NumberedRules sample{.number = 7, .rules = {}};
  sample.rules.tenant_limits = {{"red", 1 << 20}, {"b\"lue\n", Budget::kUnlimited}};
  sample.rules.stores[{"red", protocol::DigestOf("s")}] = {.limit_bytes = 5, .ttl_ms = std::nullopt};
  sample.rules.stores[{"red", protocol::DigestOf("t")}] = {.limit_bytes = std::nullopt, .ttl_ms = 0};
  sample.rules.next_pin = 4;
  sample.rules.pins[3] = {.tenant = "red",
                          .store = protocol::DigestOf("s"),
                          .ends = {protocol::DigestOf("x"), protocol::DigestOf("y")},
                          .end_ms = 12345};
  return sample;
}

TEST(StandingRulesTest, AreReadAsTheyWereWritten) {
  const NumberedRules sample = Sample();
  const auto read = ReadRules(WriteRules(sample));
  ASSERT_TRUE(read.has_value()) << read.error().message;
  EXPECT_EQ(read->number, 7u);
  EXPECT_EQ(read->rules.tenant_limits, sample.rules.tenant_limits);
  ASSERT_EQ(read->rules.stores.size(), 2u);
  const auto& first = read->rules.stores.at({"red", protocol::DigestOf("s")});
  EXPECT_EQ(first.limit_bytes, 5u);
  EXPECT_EQ(first.ttl_ms, std::nullopt);
  EXPECT_EQ(read->rules.stores.at({"red", protocol::DigestOf("t")}).ttl_ms, 0u);
  const StandingRules::Pin& pin = read->rules.pins.at(3);
  EXPECT_EQ(pin.ends, sample.rules.pins.at(3).ends);
  EXPECT_EQ(pin.end_ms, 12345u);
  EXPECT_EQ(read->rules.next_pin, 4u);
}

TEST(StandingRulesTest, DamagedOnesAreRefused) {
  const std::vector<std::byte> bytes = WriteRules(Sample());
  const std::size_t checked = offsetof(RulesHeader, number);
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    auto damaged = bytes;
    damaged[at] ^= std::byte{0x10};
    const bool free_field = (at >= offsetof(RulesHeader, reserved) && at < checked + sizeof(std::uint64_t));
    if (!free_field) {
      EXPECT_FALSE(ReadRules(damaged).has_value()) << at;
    }
  }
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(ReadRules(std::span(bytes).first(size)).has_value()) << size;
  }
}

struct StandingRulesLifeTest : testing::Test {
  Shelf shelf;
  TestCore before{std::size_t{64} << 20, EvictionKind::kLru, 0, &shelf};
  std::shared_ptr<Store> store = before.stores.Open(SmallSpec(), "red").value().store;
  const std::vector<std::uint32_t> tokens = Tokens(130);

  StandingRulesLifeTest() {
    before.core.eviction.now_ms = 5000;
    TestSequence sequence = TestSequence::Open(store, {}, kConfig);
    while (sequence.tokens.size() < tokens.size()) {
      const std::size_t step = std::min<std::size_t>(kConfig.max_step_tokens, tokens.size() - sequence.tokens.size());
      sequence.Advance(std::span(tokens).subspan(sequence.tokens.size(), step));
      before.encode.RunAll();
    }
  }
  [[nodiscard]] std::vector<Block*> Prefix(Store& of) const { return of.index().LongestPrefix(of.identity(), tokens, 16); }
};

TEST_F(StandingRulesLifeTest, OutliveTheDaemon) {
  const std::size_t segments = shelf.size();
  before.stores.SetQuota(*before.stores.FindTenant("red"), 40 << 20);
  before.stores.SetQuota(*before.stores.FindTenant("green"), 1 << 20);  // who has no store
  before.stores.SetQuota(*store, 30 << 20, 90'000);
  const PinFigures gone = before.stores.Pin({Prefix(*store)[0]}, hours(1)).value();
  const PinFigures pin = before.stores.Pin({Prefix(*store)[2]}, hours(1)).value();
  const PinFigures brief = before.stores.Pin({Prefix(*store)[1]}, milliseconds(100)).value();
  ASSERT_TRUE(before.stores.Unpin(gone.id));
  EXPECT_EQ(shelf.size(), segments + 1);

  TestCore after(std::size_t{64} << 20, EvictionKind::kLru, 0, &shelf);
  after.core.eviction.now_ms = 6000;  // the same clock goes on
  RestoreHeld(after.core, after.stores, shelf.Copies());
  EXPECT_EQ(shelf.size(), segments + 1);
  EXPECT_EQ(after.stores.FindTenant("red")->budget->own_limit(), std::size_t{40} << 20);
  EXPECT_EQ(after.stores.FindTenant("green")->budget->own_limit(), std::size_t{1} << 20);
  Store& restored = *after.stores.Find(SmallSpec().name, "red").value();
  EXPECT_EQ(restored.budget().own_limit(), std::size_t{30} << 20);
  EXPECT_EQ(restored.ttl_ms(), 90'000u);
  const std::vector<PinFigures> pins = after.stores.pins().list();
  ASSERT_EQ(pins.size(), 1u) << "one was taken off, the time of another is over";
  EXPECT_EQ(pins[0].id, pin.id);
  EXPECT_EQ(pins[0].blocks, pin.blocks);
  EXPECT_EQ(pins[0].left_ms, pin.left_ms - 1000);
  restored.EvictAll();
  EXPECT_EQ(restored.index().size(), 3u);
  // Numbers do not come again, and a third daemon hears of what the second was told.
  EXPECT_GT(after.stores.Pin({Prefix(restored)[0]}, hours(1))->id, brief.id);
  TestCore third(std::size_t{64} << 20, EvictionKind::kLru, 0, &shelf);
  third.core.eviction.now_ms = 7000;
  RestoreHeld(third.core, third.stores, shelf.Copies());
  EXPECT_EQ(third.stores.pins().list().size(), 2u);
  EXPECT_EQ(third.stores.FindTenant("red")->budget->own_limit(), std::size_t{40} << 20);
}

TEST_F(StandingRulesLifeTest, OfTwoSegmentsTheNewerHolds) {
  before.stores.SetQuota(*before.stores.FindTenant("red"), 1 << 20);
  std::vector<protocol::UniqueFd> segments = shelf.Copies();  // killed before the first was released
  before.stores.SetQuota(*before.stores.FindTenant("red"), 2 << 20);
  for (protocol::UniqueFd& fd : shelf.Copies()) {
    const auto rules = ReadRulesSegment(fd.get());
    if (rules && rules->number == 2) segments.push_back(std::move(fd));
  }
  for (int turn = 0; turn < 2; ++turn) {
    std::vector<protocol::UniqueFd> copies;
    for (const protocol::UniqueFd& fd : segments) copies.emplace_back(::dup(fd.get()));
    TestCore after;
    RestoreHeld(after.core, after.stores, std::move(copies));
    EXPECT_EQ(after.stores.FindTenant("red")->budget->own_limit(), std::size_t{2} << 20);
    std::ranges::reverse(segments);
  }
}

TEST_F(StandingRulesLifeTest, ABudgetThatIsFullMakesRoomForThem) {
  const Charge rest = before.budget.Take(ChargeKind::kMetadata, before.budget.available(), "the test").value();
  const std::size_t blocks = store->index().size();
  before.stores.SetQuota(*before.stores.FindTenant("red"), 40 << 20);
  EXPECT_LT(store->index().size(), blocks);
  TestCore after;
  RestoreHeld(after.core, after.stores, shelf.Copies());
  EXPECT_EQ(after.stores.FindTenant("red")->budget->own_limit(), std::size_t{40} << 20);
}

TEST_F(StandingRulesLifeTest, HoldForAStoreThatComesAgain) {
  before.stores.SetQuota(*store, 30 << 20, 1000);
  store->EvictAll();
  before.stores.Close(store);
  store.reset();
  ASSERT_FALSE(before.stores.Find(SmallSpec().name, "red")) << "it went with its last block";
  store = before.stores.Open(SmallSpec(), "red").value().store;
  EXPECT_EQ(store->budget().own_limit(), std::size_t{30} << 20);
  EXPECT_EQ(store->ttl_ms(), 1000u);
  ASSERT_TRUE(before.stores.Drop(SmallSpec().name, "red"));
  EXPECT_EQ(before.stores.Open(SmallSpec(), "red")->store->ttl_ms(), 0u) << "dropped with its store";
}

TEST_F(StandingRulesLifeTest, WhatIsBeyondAQuotaGoesAndNotWhatIsPinned) {
  const std::vector<Block*> prefix = Prefix(*store);
  ASSERT_TRUE(before.stores.Pin({prefix[1]}, hours(1)));
  before.stores.SetQuota(*before.stores.FindTenant("red"), 1);
  EXPECT_EQ(store->index().size(), 2u);
  TestCore after(std::size_t{64} << 20, EvictionKind::kLru, 0, &shelf);
  after.core.eviction.now_ms = 6000;
  RestoreHeld(after.core, after.stores, shelf.Copies());
  EXPECT_EQ(after.stores.Find(SmallSpec().name, "red").value()->index().size(), 2u);
}

}  // namespace
}  // namespace kvant::daemon
