// Lists of kept tokens and votes over the wire: what a client may say, and that any bits are a list.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/wire.h"
#include "tests/daemon/session_fixture.h"

namespace kvant::daemon {
namespace {

using ::testing::HasSubstr;

constexpr std::uint64_t kBits = 700 << 10;
constexpr std::uint64_t kVotes = 720 << 10;

class SessionKeptTokensTest : public SessionRpcTest {
 protected:
  void SetUp() override {
    SessionRpcTest::SetUp();
    id_ = client_.OpenSequence(store_, arena_, tail_).getSequence();
    Reference reference(tail_.spec, 1);
    Feed(id_, reference, kLength, tail_);
  }

  void Range(wire::Range::Builder to, std::uint64_t offset, std::uint64_t bytes) const {
    to.setArena(arena_);
    to.setOffset(offset);
    to.setBytes(bytes);
  }
  /// A probe with a list of one word for each KV head.
  AttendRequest Listed() {
    auto request = GoodAttend(id_);
    auto kept = request.getItems()[0].initKept();
    kept.setEnd(64);
    Range(kept.initBits(), kBits, tail_.spec.kv_heads * 8);
    return request;
  }
  std::string Refusal(AttendRequest& request) {
    const auto outcome = Attend(request);
    return outcome ? std::string() : outcome.error().message;
  }

  static constexpr std::size_t kLength = 100;
  std::uint64_t id_ = 0;
};

TEST_F(SessionKeptTokensTest, PlacesAreCheckedBeforeAnythingIsRead) {
  auto* const bits = reinterpret_cast<std::uint64_t*>(client_.floats(kBits));
  std::fill_n(bits, 8, 3);
  auto good = Listed();
  EXPECT_EQ(Refusal(good), "");
  const auto refused = [&](auto change, const char* why) {
    auto request = Listed();
    change(request.getItems()[0]);
    EXPECT_THAT(Refusal(request), HasSubstr(why));
  };
  using Item = wire::AttendItem::Builder;
  refused([&](Item item) { item.getKept().getBits().setOffset(kArenaBytes - 8); }, "kept tokens");
  refused([&](Item item) { item.getKept().getBits().setOffset(kBits + 4); }, "kept tokens");
  refused([&](Item item) { item.getKept().getBits().setArena(77); }, "kept tokens");
  refused([&](Item item) { item.getKept().getBits().setBytes(8); }, "KV heads");
  refused([&](Item item) { item.getKept().getBits().setBytes(0); }, "0 words per KV head, 64 tokens need 1");
  refused([&](Item item) { item.getKept().setEnd(65); }, "1 words per KV head, 65 tokens need 2");
  refused([&](Item item) { item.getKept().setEnd(std::numeric_limits<std::uint64_t>::max()); }, "words per KV head");
  refused([&](Item item) { item.getKept().setWindow(1); }, "sees nothing");
  refused([&](Item item) { item.setFromEnd(kLength + 1); }, "101 tokens before the end of 100");
  refused([&](Item item) { item.setNewTokens(1), item.setFromEnd(1); }, "without new rows");

  const std::uint64_t floats = tail_.spec.kv_heads * kLength;
  refused([&](Item item) { Range(item.initVotes(), kArenaBytes - 4, floats * 4); }, "votes");
  refused([&](Item item) { Range(item.initVotes(), kVotes, floats * 4 - 4); }, "KV heads");
  refused([&](Item item) { Range(item.initVotes(), kVotes, (floats - tail_.spec.kv_heads) * 4); },
          "votes have room for 99 tokens per KV head, 100 get some");
  refused([&](Item item) { Range(item.initVotes(), kVotes, floats * 4), item.disownLse(); }, "votes without lse");
}

TEST_F(SessionKeptTokensTest, AnyBitsAreAList) {
  std::mt19937_64 random(3);
  auto* const bits = reinterpret_cast<std::uint64_t*>(client_.floats(kBits));
  std::fill_n(bits, 8, 0);
  auto nothing = Listed();
  nothing.getItems()[0].getKept().setEnd(64);
  EXPECT_EQ(Refusal(nothing), "") << "the tokens behind the list are kept";
  nothing = Listed();
  nothing.getItems()[0].getKept().setEnd(kLength);
  Range(nothing.getItems()[0].getKept().getBits(), kBits, tail_.spec.kv_heads * 16);
  EXPECT_THAT(Refusal(nothing), HasSubstr("not finite")) << "nothing to attend";
  for (int i = 0; i < 200; ++i) {
    for (std::size_t w = 0; w < 8; ++w) bits[w] = random() & random() & random();
    auto request = Listed();
    auto item = request.getItems()[0];
    item.getKept().setEnd(random() % 65);
    item.getKept().setWindow(static_cast<std::uint32_t>(random() % 3 == 0 ? random() : 0));
    item.getKept().setSinks(static_cast<std::uint32_t>(random()));
    item.getKept().setWholeBelow(static_cast<std::uint32_t>(random()));
    if (item.getKept().getWindow() == 1) continue;
    Range(item.initVotes(), kVotes, tail_.spec.kv_heads * kLength * 4);
    ASSERT_EQ(Refusal(request), "");
  }
}

/// A votes-only question asks the newest tokens' queries again and changes nothing: their weights add up to 1 each.
TEST_F(SessionKeptTokensTest, VotesOfTokensThatArePartOfTheSequence) {
  auto request = GoodAttend(id_);
  auto item = request.getItems()[0];
  FillAttend(item, id_, 0, 3, 0);
  item.setFromEnd(3);
  float* const votes = client_.floats(kVotes);
  std::fill_n(votes, tail_.spec.kv_heads * kLength, 0.0f);
  Range(item.initVotes(), kVotes, tail_.spec.kv_heads * kLength * 4);
  ASSERT_EQ(Refusal(request), "");
  for (std::size_t h = 0; h < tail_.spec.kv_heads; ++h) {
    double sum = 0;
    for (std::size_t p = 0; p < kLength; ++p) sum += double{votes[h * kLength + p]};
    EXPECT_NEAR(sum, 3.0 * kQHeads / tail_.spec.kv_heads, 1e-5);
    EXPECT_GT(votes[h * kLength + 99], 0.0f) << "the last query sees its own token";
  }
}

/// The place of votes may end where the last query's tokens do, and whatever a client says of its queries, nothing around it
/// is written.
TEST_F(SessionKeptTokensTest, NothingAroundVotesIsWritten) {
  constexpr float kCanary = -0.0f;  // which adding 0 changes
  constexpr std::size_t kGuard = 256;
  const std::size_t heads = tail_.spec.kv_heads;
  /// Asks `queries` queries from `from_end` tokens before the end on, with room for votes of `stride` tokens.
  const auto ask = [&](std::uint32_t from_end, std::uint32_t queries, std::size_t stride) {
    float* const votes = client_.floats(kVotes);
    std::fill_n(votes, 2 * kGuard + heads * stride, kCanary);
    std::fill_n(votes + kGuard, heads * stride, 0.0f);
    auto request = GoodAttend(id_);
    auto item = request.getItems()[0];
    FillAttend(item, id_, 0, queries, 0);
    item.setFromEnd(from_end);
    Range(item.initVotes(), kVotes + kGuard * sizeof(float), heads * stride * sizeof(float));
    const std::string refusal = Refusal(request);
    for (const std::size_t begin : {std::size_t{0}, kGuard + heads * stride}) {
      EXPECT_TRUE(std::all_of(votes + begin, votes + begin + kGuard, [](float x) { return std::signbit(x); }))
          << queries << " queries " << from_end << " before the end wrote around their votes";
    }
    return refusal;
  };
  for (const std::uint32_t from_end : {1u, 2u, 3u, 20u, 37u, 64u, 99u, 100u}) {
    for (const std::uint32_t queries : {1u, 2u, 3u, 20u}) {
      if (queries > from_end) continue;
      const std::size_t end = kLength - from_end + queries;
      EXPECT_EQ(ask(from_end, queries, end), "") << from_end << ' ' << queries;
      const float* const votes = client_.floats(kVotes) + kGuard;
      double sum = 0;
      for (std::size_t i = 0; i < heads * end; ++i) sum += double{votes[i]};
      EXPECT_NEAR(sum, 1.0 * queries * kQHeads, 1e-5 * queries * kQHeads) << from_end << ' ' << queries;
      if (end > 1) {
        EXPECT_THAT(ask(from_end, queries, end - 1), HasSubstr("votes have room for")) << from_end << ' ' << queries;
      }
    }
  }
  EXPECT_THAT(ask(2, 3, kLength), HasSubstr("3 queries, the sequence ends 2 tokens behind the first"));
  EXPECT_THAT(ask(1, 4, kLength + 3), HasSubstr("4 queries, the sequence ends 1 tokens behind the first"));
  EXPECT_THAT(ask(kLength + 1, 1, kLength), HasSubstr("101 tokens before the end of 100"));
  EXPECT_THAT(ask(std::numeric_limits<std::uint32_t>::max(), 1, kLength), HasSubstr("before the end of 100"));
  EXPECT_THAT(ask(std::numeric_limits<std::uint32_t>::max(), 20, kLength), HasSubstr("before the end of 100"));
}

}  // namespace
}  // namespace kvant::daemon
