// Token policies through client and daemon, in both placements: what is attended and what is kept, against the definitions in
// double.
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <kvant/admin.h>
#include <kvant/client.h>

#include "tests/support/conversation.h"
#include "tests/support/daemon_env.h"
#include "tests/support/kept_reference.h"

namespace kvant::testing {
namespace {

using ::testing::HasSubstr;

/// Raw f32 rows and f32 codes: only the order of additions differs from the reference (attention_test.cc derives the bound).
constexpr double kF32Tolerance = 1e-5;

class PolicyTest : public ::testing::TestWithParam<Placement> {
 protected:
  Sequence Open(const std::string& policy, std::span<const TokenId> tokens = {}, const std::string& codec = "f32",
                std::uint32_t max_step = 320) {
    auto store = client_.OpenStore(SpecOf(model_.shape(), codec, codec));
    return store.value().Open(tokens, Options(policy, max_step)).value();
  }
  [[nodiscard]] static SequenceOptions Options(const std::string& policy, std::uint32_t max_step = 320) {
    return {.placement = GetParam(),
            .recent_tokens = 32,
            .max_step_tokens = max_step,
            .tail_type = ElementType::kF32,
            .label = "chat",
            .policy = policy};
  }
  Conversation Talk(Sequence sequence, std::vector<TokenId> tokens = {}) {
    return {client_, std::move(sequence), model_, std::move(tokens), 320};
  }

  /// Feeds tokens in steps and compares what attention says with the reference, which takes the same steps.
  void FeedBoth(Conversation& talk, KeptReference& reference, std::span<const TokenId> tokens, std::size_t chunk) {
    const std::size_t layers = model_.shape().layers, before = talk.sequence().length();
    const std::vector<float> said = talk.Feed(tokens, chunk);
    reference.SetTokens(talk.tokens());
    const std::size_t row = std::size_t{model_.shape().q_heads} * model_.shape().head_dim;
    ASSERT_EQ(said.size(), tokens.size() * layers * row);
    double worst = 0;
    for (std::size_t layer = 0; layer < layers; ++layer) {
      const auto expected = reference.Attend(layer, before, before + tokens.size());
      for (std::size_t t = 0; t < tokens.size(); ++t) {
        worst = std::max(worst, MaxDifference(std::span(said).subspan((t * layers + layer) * row, row),
                                              std::span(expected).subspan(t * row, row)));
      }
    }
    EXPECT_LT(worst, kF32Tolerance);
  }

  void ExpectSameKept(Conversation& talk, const KeptReference& reference) {
    std::size_t kept = 0;
    for (std::size_t layer = 0; layer < model_.shape().layers; ++layer) {
      for (std::size_t head = 0; head < model_.shape().kv_heads; ++head) {
        const auto list = talk.sequence().KeptTokens(layer, head).value();
        EXPECT_EQ(list, reference.Kept(layer, head)) << "layer " << layer << ", head " << head;
        kept += list.size();
      }
    }
    const std::size_t lists = std::size_t{model_.shape().layers} * model_.shape().kv_heads;
    EXPECT_EQ(talk.sequence().kept(), (kept + lists / 2) / lists);
  }

  DaemonEnv env_;
  const FakeModel model_{ModelShape{.layers = 2, .kv_heads = 2, .q_heads = 8, .head_dim = 64}};
  Client client_ = env_.Connect();
};

TEST_P(PolicyTest, AWindowSeesSinksAndTheNewestTokensAtTheirTruePositions) {
  const auto tokens = RandomTokens(430, 1);
  for (const auto& [policy, window, sinks, min] : {std::tuple{"window:tokens=100,sinks=4", 100, 4, 0},
                                                   {"window:tokens=100,sinks=0,min=300", 100, 0, 300},
                                                   {"window:tokens=70,sinks=150", 70, 150, 0},
                                                   {"window:tokens=2,sinks=1", 2, 1, 0},
                                                   {"window:tokens=1000", 1000, 4, 0}}) {
    SCOPED_TRACE(policy);
    KeptReference reference(model_);
    reference.SetWindow(static_cast<std::size_t>(window), static_cast<std::size_t>(sinks), static_cast<std::size_t>(min));
    Conversation talk = Talk(Open(policy));
    FeedBoth(talk, reference, std::span(tokens).first(300), 300);
    FeedBoth(talk, reference, std::span(tokens).subspan(300, 100), 9);
    FeedBoth(talk, reference, std::span(tokens).subspan(400), 1);
    ExpectSameKept(talk, reference);
    EXPECT_EQ(talk.sequence().length(), 430u);
  }
}

/// What a fork, a probe and a batch see is the window's too.
TEST_P(PolicyTest, AWindowHoldsForForksTrimsAndProbes) {
  const auto tokens = RandomTokens(330, 2);
  KeptReference reference(model_);
  reference.SetWindow(50, 4, 0);
  Conversation talk = Talk(Open("window:tokens=50,sinks=4"));
  FeedBoth(talk, reference, std::span(tokens).first(300), 64);
  Conversation fork = Talk(talk.sequence().Fork(250).value(), {tokens.begin(), tokens.begin() + 250});
  reference.SetTokens(fork.tokens());
  FeedBoth(fork, reference, RandomTokens(10, 3), 4);
  ASSERT_TRUE(talk.sequence().Trim(290));
  talk.tokens().resize(290);
  reference.SetTokens(talk.tokens());
  FeedBoth(talk, reference, std::span(tokens).subspan(300), 30);

  const std::vector<float> q = model_.Row(tokens, 0, Side::kQuery, 0, 0);
  std::vector<float> all, seen(q.size() * 8);
  for (int h = 0; h < 8; ++h) all.insert(all.end(), q.begin(), q.end());
  ASSERT_TRUE(talk.sequence().Attend(1, {.q = {all.data(), ElementType::kF32, 1, 8, 64, 512, 64},
                                         .out = {seen.data(), ElementType::kF32, 1, 8, 64, 512, 64},
                                         .scale = 0.1f}));
  EXPECT_LT(MaxDifference(seen, reference.Probe(1, q, 0.1f)), kF32Tolerance);
}

TEST_P(PolicyTest, SnapKVKeepsWhatTheLastQueriesAttendedMost) {
  const auto tokens = RandomTokens(420, 4);
  for (const bool max : {true, false}) {
    KeptReference reference(model_);
    const std::string policy = std::string("snapkv:budget=90,window=16,kernel=5,sinks=4,pool=") + (max ? "max" : "avg");
    Conversation talk = Talk(Open(policy));
    FeedBoth(talk, reference, std::span(tokens).first(310), 310);
    EXPECT_EQ(talk.sequence().kept(), 310u) << "nothing is dropped before one asks";
    ASSERT_TRUE(talk.sequence().ApplyPolicy());
    reference.ApplySnapKV({.budget = 90, .window = 16, .kernel = 5, .max = max, .sinks = 4});
    ExpectSameKept(talk, reference);
    EXPECT_EQ(talk.sequence().kept(), 90u);
    EXPECT_EQ(talk.sequence().length(), 310u);
    FeedBoth(talk, reference, std::span(tokens).subspan(310, 80), 20);
    FeedBoth(talk, reference, std::span(tokens).subspan(390), 1);
    EXPECT_EQ(talk.sequence().kept(), 200u) << "what comes afterwards is kept";
    // Again, among what is still there: the budget holds.
    ASSERT_TRUE(talk.sequence().ApplyPolicy());
    reference.ApplySnapKV({.budget = 90, .window = 16, .kernel = 5, .max = max, .sinks = 4});
    ExpectSameKept(talk, reference);
    EXPECT_EQ(talk.sequence().kept(), 90u);
  }
}

TEST_P(PolicyTest, HowAPromptWasCutDoesNotChangeWhatSnapKVKeeps) {
  const auto tokens = RandomTokens(311, 5);
  std::vector<std::vector<std::uint64_t>> lists;
  for (const std::size_t chunk : {311, 100, 16, 7, 1}) {
    Conversation talk = Talk(Open("snapkv:budget=60,window=20", {}, "turboquant_mse:bits=4"));
    for (std::size_t at = 0; at < tokens.size(); at += chunk) {
      ASSERT_TRUE(talk.Step(std::span(tokens).subspan(at, std::min(chunk, tokens.size() - at)), WriteMode::kInPlace, {}));
    }
    ASSERT_TRUE(talk.sequence().ApplyPolicy());
    std::vector<std::uint64_t> all;
    for (std::size_t list = 0; list < 4; ++list) {
      const auto kept = talk.sequence().KeptTokens(list / 2, list % 2).value();
      EXPECT_EQ(kept.size(), 60u);
      all.insert(all.end(), kept.begin(), kept.end());
    }
    lists.push_back(all);
  }
  for (const auto& list : lists) EXPECT_EQ(list, lists[0]);
}

TEST_P(PolicyTest, H2OHoldsItsBudgetFromThePromptOn) {
  const auto tokens = RandomTokens(340, 6);
  for (const std::size_t chunk : {300, 13}) {
    KeptReference reference(model_);
    Conversation talk = Talk(Open("h2o:budget=80,recent=30,sinks=2"));
    FeedBoth(talk, reference, std::span(tokens).first(300), chunk);
    EXPECT_EQ(talk.sequence().kept(), 300u);
    ASSERT_TRUE(talk.sequence().ApplyPolicy());
    reference.ApplyH2O(80, 30, 2);
    ExpectSameKept(talk, reference);
    for (std::size_t at = 300; at < 340;) {
      const std::size_t step = 1 + at % 3;  // each drops at its end
      FeedBoth(talk, reference, std::span(tokens).subspan(at, std::min(step, 340 - at)), step);
      reference.ApplyH2O(80, 30, 2);
      EXPECT_EQ(talk.sequence().kept(), 80u);
      at += step;
    }
    ExpectSameKept(talk, reference);
  }
}

/// A step whose attention is asked for again, as an engine does that recovers from an error of its own.
TEST_P(PolicyTest, QueriesThatAreAskedTwiceVoteOnce) {
  const auto tokens = RandomTokens(300, 17);
  KeptReference reference(model_);
  Conversation talk = Talk(Open("h2o:budget=80,recent=20,sinks=2"));
  for (std::size_t at = 0; at < 300; at += 50) {
    const auto step = std::span(tokens).subspan(at, 50);
    for (std::size_t again = 0; again < (at == 100 ? 5 : 0); ++again) {
      ASSERT_TRUE(talk.AttendOnly(step, WriteMode::kInPlace, {}));
    }
    FeedBoth(talk, reference, step, 50);
  }
  ASSERT_TRUE(talk.sequence().ApplyPolicy());
  reference.ApplyH2O(80, 20, 2);
  ExpectSameKept(talk, reference);
}

/// Tokens that come where others were trimmed begin without those tokens' votes; what trimmed queries gave to others stays.
TEST_P(PolicyTest, VotesOfTrimmedTokensAreNotInherited) {
  const auto tokens = RandomTokens(260, 18);
  KeptReference reference(model_);
  Conversation talk = Talk(Open("h2o:budget=70,recent=20,sinks=2"));
  FeedBoth(talk, reference, std::span(tokens).first(200), 40);
  for (const auto& [length, seed] : {std::pair{20, 19}, {30, 20}, {60, 21}}) {
    ASSERT_TRUE(talk.sequence().Trim(static_cast<std::uint64_t>(length)));
    talk.tokens().resize(static_cast<std::size_t>(length));
    reference.SetTokens(talk.tokens());
    FeedBoth(talk, reference, RandomTokens(200, static_cast<std::uint64_t>(seed)), 40);
  }
  ASSERT_EQ(talk.sequence().length(), 260u);
  ASSERT_TRUE(talk.sequence().ApplyPolicy());
  reference.ApplyH2O(70, 20, 2);
  ExpectSameKept(talk, reference);
  // And under the budget: what was dropped of the part that stays is still dropped, new tokens are all there.
  ASSERT_TRUE(talk.sequence().Trim(250));
  talk.tokens().resize(250);
  reference.SetTokens(talk.tokens());
  FeedBoth(talk, reference, RandomTokens(9, 22), 9);
  ExpectSameKept(talk, reference);
  FeedBoth(talk, reference, RandomTokens(30, 23), 30);
  reference.ApplyH2O(70, 20, 2);
  ExpectSameKept(talk, reference);
}

/// Lists that grow, shrink and grow by less than a word: what comes is kept, whatever stood in its bit before.
TEST_P(PolicyTest, ListsGrowAndShrinkInsideOneWord) {
  KeptReference reference(model_);
  Conversation talk = Talk(Open(""));
  std::uint64_t seed = 24;
  const auto feed = [&](std::size_t tokens) { FeedBoth(talk, reference, RandomTokens(tokens, seed++), tokens); };
  const auto keep_all_but = [&](std::uint64_t begin, std::uint64_t end) {
    std::vector<std::uint64_t> positions;
    for (std::uint64_t p = 0; p < talk.sequence().length(); ++p) {
      if (p < begin || p >= end) positions.push_back(p);
    }
    ASSERT_TRUE(talk.sequence().Keep(1, 1, positions));
    reference.Keep(1, 1, positions);
    ExpectSameKept(talk, reference);
  };
  const auto trim = [&](std::size_t length) {
    ASSERT_TRUE(talk.sequence().Trim(length));
    talk.tokens().resize(length);
    reference.SetTokens(talk.tokens());
    ExpectSameKept(talk, reference);
  };
  feed(5);
  keep_all_but(1, 3);
  feed(2);
  keep_all_but(5, 6);  // from 5 to 7 tokens
  feed(50);
  keep_all_but(30, 57);  // the newest, too
  trim(40);
  feed(3);
  keep_all_but(40, 41);  // bits that were dropped before the trim
  feed(21);
  keep_all_but(62, 63);  // up to the word's last bit
  feed(1);
  keep_all_but(10, 12);  // and one behind it
  feed(4);
  ExpectSameKept(talk, reference);
}

TEST_P(PolicyTest, DroppingForOneSequenceChangesNoOther) {
  const auto tokens = RandomTokens(310, 7);
  KeptReference dropped(model_), whole(model_);
  Conversation talk = Talk(Open("snapkv:budget=50,window=8"));
  FeedBoth(talk, dropped, tokens, 100);
  Conversation early = Talk(talk.sequence().Fork().value(), tokens);
  Conversation other = Talk(Open("", tokens), {});
  other.tokens().assign(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(other.sequence().length()));
  ASSERT_GE(other.sequence().length(), 192u) << "shares its blocks";
  ASSERT_TRUE(talk.sequence().ApplyPolicy());
  dropped.ApplySnapKV({.budget = 50, .window = 8, .kernel = 7, .sinks = 4});
  Conversation late = Talk(talk.sequence().Fork(300).value(), {tokens.begin(), tokens.begin() + 300});

  const auto more = RandomTokens(20, 8);
  whole.SetTokens(other.tokens());
  FeedBoth(other, whole, more, 20);
  KeptReference whole_fork(model_);
  whole_fork.SetTokens(tokens);
  FeedBoth(early, whole_fork, more, 20);
  EXPECT_EQ(early.sequence().kept(), 330u);
  KeptReference late_reference = dropped;
  late_reference.SetTokens(late.tokens());
  ExpectSameKept(late, late_reference);
  FeedBoth(late, late_reference, more, 3);
  FeedBoth(talk, dropped, more, 7);
  ExpectSameKept(talk, dropped);
}

TEST_P(PolicyTest, MarksHoldWhatIsKeptAndTrimsBringNothingBack) {
  const auto tokens = RandomTokens(300, 9);
  KeptReference reference(model_);
  Conversation talk = Talk(Open("h2o:budget=60,recent=20"));
  FeedBoth(talk, reference, tokens, 150);
  ASSERT_TRUE(talk.sequence().ApplyPolicy());
  reference.ApplyH2O(60, 20, 0);
  const Mark mark = talk.sequence().SetMark().value();
  const auto refused = talk.sequence().ApplyPolicy();
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("a mark at 300 tokens is held"));
  KeptReference tried = reference;
  FeedBoth(talk, tried, RandomTokens(12, 10), 4);
  EXPECT_EQ(talk.sequence().kept(), 72u) << "nothing goes while a mark is held";
  ASSERT_TRUE(talk.sequence().Rewind(mark));
  talk.tokens().resize(300);
  ExpectSameKept(talk, reference);
  ASSERT_TRUE(talk.sequence().Release(mark));
  ASSERT_TRUE(talk.sequence().Trim(290));
  talk.tokens().resize(290);
  reference.SetTokens(talk.tokens());
  EXPECT_EQ(talk.sequence().kept(), 50u) << "of the last ten tokens all were kept";
  FeedBoth(talk, reference, RandomTokens(8, 11), 8);
  ExpectSameKept(talk, reference);
}

TEST_P(PolicyTest, KeepIsAnEnginesOwnChoiceAndCarriesAListOver) {
  const auto tokens = RandomTokens(300, 12);
  KeptReference reference(model_);
  Conversation talk = Talk(Open(""));
  FeedBoth(talk, reference, tokens, 300);
  const std::vector<std::uint64_t> odd = {1, 3, 64, 65, 200, 299};
  ASSERT_TRUE(talk.sequence().Keep(1, 0, odd));
  reference.Keep(1, 0, odd);
  ExpectSameKept(talk, reference);
  FeedBoth(talk, reference, RandomTokens(5, 13), 2);
  const auto refused = [&](std::vector<std::uint64_t> positions, const char* why) {
    const auto kept = talk.sequence().Keep(1, 0, positions);
    ASSERT_FALSE(kept);
    EXPECT_THAT(kept.error().message, HasSubstr(why));
  };
  refused({}, "no positions");
  refused({5, 5}, "position 5 behind 5");
  refused({305}, "below the length 305");
  EXPECT_EQ(talk.sequence().Keep(2, 0, odd).error().code, ErrorCode::kOutOfRange);
  EXPECT_EQ(talk.sequence().KeptTokens(0, 2).error().code, ErrorCode::kOutOfRange);
  ExpectSameKept(talk, reference);
  // Another daemon, or a new connection: the list goes on where its owner puts it.
  const auto list = talk.sequence().KeptTokens(1, 0).value();
  Conversation again = Talk(Open(""));
  KeptReference same(model_);
  FeedBoth(again, same, talk.tokens(), 305);
  ASSERT_TRUE(again.sequence().Keep(1, 0, list));
  ExpectSameKept(again, reference);
}

TEST_P(PolicyTest, BelowItsBudgetOrItsLeastLengthAPolicyDoesNothing) {
  const auto tokens = RandomTokens(200, 14);
  for (const char* policy : {"snapkv:budget=200,window=8", "snapkv:budget=50,window=8,min=200", "h2o:budget=200,recent=10",
                             "h2o:budget=20,recent=10,min=200", "", "all"}) {
    SCOPED_TRACE(policy);
    KeptReference reference(model_);
    Conversation talk = Talk(Open(policy));
    FeedBoth(talk, reference, tokens, 200);
    ASSERT_TRUE(talk.sequence().ApplyPolicy());
    EXPECT_EQ(talk.sequence().kept(), 200u);
    ExpectSameKept(talk, reference);
  }
}

TEST_P(PolicyTest, WhatDoesNotFitIsRefusedAndNamed) {
  auto store = client_.OpenStore(SpecOf(model_.shape(), "f32", "f32")).value();
  const auto opened = store.Open({}, Options("snapkv:budget=20,window=32"));
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(opened.error().message, HasSubstr("budget 20 is less than the 36 tokens that always stay"));
  // All but one block found sealed: nobody knows their queries.
  const auto tokens = RandomTokens(256, 15);
  Conversation first = Talk(Open(""));
  first.Feed(tokens, 256);
  Conversation found = Talk(Open("snapkv:budget=20,window=8", std::span(tokens).first(192)));
  ASSERT_EQ(found.sequence().length(), 192u);
  const auto applied = found.sequence().ApplyPolicy();
  ASSERT_FALSE(applied);
  EXPECT_THAT(applied.error().message, HasSubstr("no query of the newest 8 tokens is known of layer 0"));
  EXPECT_EQ(found.sequence().kept(), 192u);
}

TEST_P(PolicyTest, OperatorsSeeThePolicyAndWhatIsKept) {
  Conversation talk = Talk(Open("snapkv:budget=50,window=8"));
  talk.Feed(RandomTokens(300, 16), 100);
  ASSERT_TRUE(talk.sequence().ApplyPolicy());
  auto admin = Admin::Connect(env_.socket()).value();
  const auto row = admin.Inspect(talk.sequence().id()).value().row;
  EXPECT_EQ(row.policy, "snapkv:budget=50,window=8,kernel=7,pool=max,sinks=4,min=0");
  EXPECT_EQ(row.length, 300u);
  EXPECT_EQ(row.kept_tokens, 50u);
}

INSTANTIATE_TEST_SUITE_P(Placements, PolicyTest, ::testing::Values(Placement::kService, Placement::kLocal),
                         [](const auto& placement) { return placement.param == Placement::kLocal ? "Local" : "Service"; });

}  // namespace
}  // namespace kvant::testing
