// Tokens whose ids come after their rows.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <kvant/client.h>

#include "tests/support/conversation.h"
#include "tests/support/daemon_env.h"

namespace kvant::testing {
namespace {

using ::testing::HasSubstr;

constexpr std::uint32_t kMaxStep = 32;
constexpr std::uint32_t kUnnamed = 200;
constexpr double kF32Tolerance = 1e-5;  // attention_test.cc says why

class UnnamedTest : public ::testing::TestWithParam<Placement> {
 protected:
  [[nodiscard]] static SequenceOptions Options(std::uint32_t unnamed_tokens = kUnnamed) {
    return {.placement = GetParam(),
            .recent_tokens = 16,
            .max_step_tokens = kMaxStep,
            .tail_type = ElementType::kF32,
            .label = "test",
            .unnamed_tokens = unnamed_tokens};
  }
  [[nodiscard]] Store OpenStore(Client& client) const { return client.OpenStore(SpecOf(model_.shape(), "f32", "f32")).value(); }
  [[nodiscard]] Conversation Talk(Client& client, Sequence sequence, std::vector<TokenId> tokens = {}) const {
    return {client, std::move(sequence), model_, std::move(tokens), kMaxStep};
  }

  /// Feeds `tokens` without their ids, and checks what attention said.
  void FeedUnnamed(Conversation& talk, std::span<const TokenId> tokens) const {
    while (!tokens.empty()) {
      const auto step = tokens.first(std::min<std::size_t>(tokens.size(), kMaxStep));
      const std::size_t before = talk.sequence().length();
      ASSERT_EQ(before, talk.tokens().size());
      const auto attended = talk.AttendOnly(step, WriteMode::kInPlace, {});
      ASSERT_TRUE(attended) << attended.error().message;
      const auto advanced = talk.sequence().AdvanceUnnamed(step.size());
      ASSERT_TRUE(advanced) << advanced.error().message;
      talk.tokens().insert(talk.tokens().end(), step.begin(), step.end());
      std::vector<float> expected;
      for (std::size_t layer = 0; layer < model_.shape().layers; ++layer) {
        const auto part = BruteForce(model_, talk.tokens(), before, before + step.size(), layer, {}, nullptr);
        expected.insert(expected.end(), part.begin(), part.end());
      }
      ASSERT_LT(MaxDifference(talk.out(), expected), kF32Tolerance) << before;
      tokens = tokens.subspan(step.size());
    }
  }

  DaemonEnv env_;
  FakeModel model_{ModelShape{}};
};

TEST_P(UnnamedTest, TokensAreAttendedBeforeAndAfterTheyAreNamed) {
  Client client = env_.Connect();
  Store store = OpenStore(client);
  const std::vector<TokenId> tokens = RandomTokens(500, 1);
  Conversation talk = Talk(client, store.Open({}, Options()).value());
  talk.Feed(std::span(tokens).first(70), 30);
  FeedUnnamed(talk, std::span(tokens).subspan(70, 150));
  EXPECT_EQ(talk.sequence().length(), 220u);
  EXPECT_EQ(talk.sequence().unnamed(), 150u);
  EXPECT_EQ(env_.Stats().Find("sealed_blocks"), 0u);
  ASSERT_TRUE(talk.sequence().Name(std::span(tokens).subspan(70, 90)));
  EXPECT_EQ(talk.sequence().length(), 220u);
  EXPECT_EQ(talk.sequence().unnamed(), 60u);
  FeedUnnamed(talk, std::span(tokens).subspan(220, 130));
  // Naming does not touch what is reserved.
  const auto last = std::span(tokens).subspan(350, 20);
  ASSERT_TRUE(talk.AttendOnly(last, WriteMode::kInPlace, {}));
  ASSERT_TRUE(talk.sequence().Name(std::span(tokens).subspan(160, 190)));
  ASSERT_TRUE(talk.sequence().Advance(last));
  talk.tokens().insert(talk.tokens().end(), last.begin(), last.end());
  const std::vector<float> got = talk.Feed(std::span(tokens).subspan(370), 13);
  EXPECT_LT(MaxDifference(got, talk.Expected(370, 500)), kF32Tolerance);
  EXPECT_EQ(client.counters().tokens_advanced, 500u);

  // Others find them by their ids.
  Client other = env_.Connect();
  EXPECT_EQ(OpenStore(other).Open(tokens, Options()).value().prefix_hit_tokens(), 448u);
}

TEST_P(UnnamedTest, TrimsForksAndRewindsGoThroughThem) {
  Client client = env_.Connect();
  Store store = OpenStore(client);
  const std::vector<TokenId> tokens = RandomTokens(160, 2);
  Conversation talk = Talk(client, store.Open({}, Options()).value());
  talk.Feed(std::span(tokens).first(40), 30);
  const Mark mark = talk.sequence().SetMark().value();
  FeedUnnamed(talk, std::span(tokens).subspan(40));
  for (const std::size_t at : {std::size_t{160}, std::size_t{100}, std::size_t{40}, std::size_t{25}}) {
    auto forked = talk.sequence().Fork(at);
    ASSERT_TRUE(forked) << forked.error().message;
    EXPECT_EQ(forked->length(), at);
    EXPECT_EQ(forked->unnamed(), at > 40 ? at - 40 : 0);
    Conversation fork = Talk(client, std::move(*forked), {tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(at)});
    FeedUnnamed(fork, RandomTokens(40, 3 + at));
    ASSERT_TRUE(fork.sequence().Name(std::span(fork.tokens()).last(fork.sequence().unnamed())));
    const std::vector<float> got = fork.Feed(RandomTokens(60, 4 + at), 20);
    EXPECT_LT(MaxDifference(got, fork.Expected(at + 40, at + 100)), kF32Tolerance) << at;
  }
  EXPECT_EQ(talk.sequence().Fork(161).error().code, ErrorCode::kOutOfRange);
  ASSERT_TRUE(talk.sequence().Trim(120));
  EXPECT_EQ(talk.sequence().unnamed(), 80u);
  talk.tokens().resize(120);
  FeedUnnamed(talk, RandomTokens(30, 8));
  EXPECT_EQ(talk.sequence().Trim(151).error().code, ErrorCode::kOutOfRange);
  ASSERT_TRUE(talk.sequence().Rewind(mark));
  EXPECT_EQ(talk.sequence().length(), 40u);
  EXPECT_EQ(talk.sequence().unnamed(), 0u);
  talk.tokens().resize(40);
  FeedUnnamed(talk, RandomTokens(30, 9));
  ASSERT_TRUE(talk.sequence().Trim(20));  // below the mark, too
  EXPECT_EQ(talk.sequence().unnamed(), 0u);
  talk.tokens().resize(20);
  const std::vector<float> got = talk.Feed(RandomTokens(60, 10), 20);
  EXPECT_LT(MaxDifference(got, talk.Expected(20, 80)), kF32Tolerance);
}

TEST_P(UnnamedTest, RowsAreReadBack) {
  Client client = env_.Connect();
  Store store = OpenStore(client);
  const ModelShape& shape = model_.shape();
  const std::vector<TokenId> tokens = RandomTokens(150, 5);
  Conversation talk = Talk(client, store.Open({}, Options()).value());
  talk.Feed(std::span(tokens).first(40), 30);
  FeedUnnamed(talk, std::span(tokens).subspan(40));
  std::vector<float> got(150 * shape.kv_heads * shape.head_dim), expected;
  const TensorView view{got.data(),     ElementType::kF32, 150,
                        shape.kv_heads, shape.head_dim,    std::size_t{shape.kv_heads} * shape.head_dim,
                        shape.head_dim};
  const auto copied = talk.sequence().CopyRows(1, 0, 150, {}, view);
  ASSERT_TRUE(copied) << copied.error().message;
  for (std::size_t p = 0; p < 150; ++p) {
    for (std::size_t h = 0; h < shape.kv_heads; ++h) {
      const auto row = model_.Row(tokens, p, Side::kValue, 1, h);
      expected.insert(expected.end(), row.begin(), row.end());
    }
  }
  EXPECT_EQ(got, expected);
}

TEST_P(UnnamedTest, WhatMustNotBeIsNamed) {
  Client client = env_.Connect();
  Store store = OpenStore(client);
  Conversation talk = Talk(client, store.Open({}, Options(0)).value());
  Sequence& sequence = talk.sequence();
  const auto says = [](const auto& refused, ErrorCode code, const char* what) {
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, code);
    EXPECT_THAT(refused.error().message, HasSubstr(what));
  };
  says(sequence.AdvanceUnnamed(1), ErrorCode::kInvalidArgument, "1 tokens without ids, 0 rows are reserved");
  const std::vector<TokenId> tokens = RandomTokens(400, 6);
  FeedUnnamed(talk, std::span(tokens).first(20));
  ASSERT_TRUE(talk.AttendOnly(std::span(tokens).subspan(20, 2), WriteMode::kInPlace, {}));
  says(sequence.Advance(std::span(tokens).subspan(20, 2)), ErrorCode::kInvalidArgument, "20 tokens before these have no ids");
  EXPECT_TRUE(sequence.Advance({})) << "gives the rows up";
  says(sequence.SetMark(), ErrorCode::kInvalidArgument, "20 tokens have no ids");
  says(sequence.Name(std::span(tokens).first(21)), ErrorCode::kInvalidArgument, "21 ids, 20 tokens have none");
  const TokenId bad = -5;
  says(sequence.Name({&bad, 1}), ErrorCode::kInvalidArgument, "token 0 is -5");
  auto rows = sequence.Reserve(1).value();
  for (std::size_t layer = 0; layer < model_.shape().layers; ++layer) {
    static_cast<float*>(rows.Values(layer).data)[3] = NAN;
  }
  says(sequence.AdvanceUnnamed(1), ErrorCode::kNotFinite, "position 20");
  EXPECT_EQ(sequence.length(), 20u);
  // Without room for them they fill the tail.
  std::size_t at = 20;
  while (sequence.reservable() == kMaxStep) {
    FeedUnnamed(talk, std::span(tokens).subspan(at, kMaxStep));
    at += kMaxStep;
  }
  says(sequence.Reserve(kMaxStep), ErrorCode::kTailFull, "have no ids yet; name them (Name)");
  ASSERT_TRUE(sequence.Name(std::span(tokens).first(at)));
  EXPECT_EQ(sequence.reservable(), kMaxStep);
  const std::vector<float> got = talk.Feed(std::span(tokens).subspan(at), 20);
  EXPECT_LT(MaxDifference(got, talk.Expected(at, 400)), kF32Tolerance);
}

INSTANTIATE_TEST_SUITE_P(Placements, UnnamedTest, ::testing::Values(Placement::kService, Placement::kLocal),
                         [](const auto& param_info) { return param_info.param == Placement::kLocal ? "Local" : "Service"; });

}  // namespace
}  // namespace kvant::testing
