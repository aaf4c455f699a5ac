// Sharing, forks, trims, marks and live reads through the client library.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include <kvant/admin.h>
#include <kvant/client.h>

#include "tests/support/conversation.h"
#include "tests/support/daemon_env.h"

namespace kvant::testing {
namespace {

constexpr std::uint32_t kMaxStep = 64;
constexpr std::uint32_t kBlock = 64;
constexpr double kF32Tolerance = 1e-5;  // attention_test.cc says why

class SequenceTest : public ::testing::TestWithParam<Placement> {
 protected:
  [[nodiscard]] static SequenceOptions Options(ElementType tail = ElementType::kF32) {
    return {.placement = GetParam(), .recent_tokens = 16, .max_step_tokens = kMaxStep, .tail_type = tail, .label = "test"};
  }
  [[nodiscard]] Conversation Talk(Client& client, Sequence sequence, const std::vector<TokenId>& tokens) const {
    return {client, std::move(sequence), model_, tokens, kMaxStep};
  }

  DaemonEnv env_;
  FakeModel model_{ModelShape{}};
};

TEST_P(SequenceTest, SecondClientStartsFromTheFirstOnesBlocks) {
  const StoreSpec spec = SpecOf(model_.shape(), "turboquant_mse:bits=4", "turboquant_mse:bits=4");
  const std::vector<TokenId> prompt = RandomTokens(300, 11);
  std::vector<float> first_outputs;
  const std::vector<TokenId> next = RandomTokens(20, 12);
  Client first = env_.Connect({.name = "first"});
  Store first_store = first.OpenStore(spec).value();
  EXPECT_TRUE(first_store.info().created);
  Conversation talk = Talk(first, first_store.Open(prompt, Options(ElementType::kF16)).value(), {});
  EXPECT_EQ(talk.sequence().prefix_hit_tokens(), 0u);
  talk.Feed(prompt, 50);
  first_outputs = talk.Feed(next, 1);

  Client second = env_.Connect({.name = "second"});
  Store second_store = second.OpenStore(spec).value();
  EXPECT_FALSE(second_store.info().created);
  EXPECT_EQ(second_store.info().identity, first_store.info().identity);
  Sequence opened = second_store.Open(prompt, Options(ElementType::kF16)).value();
  // 300 tokens, 16 recent: blocks of 64 up to 256 are sealed.
  EXPECT_EQ(opened.prefix_hit_tokens(), 256u);
  EXPECT_EQ(opened.length(), 256u);
  Conversation other = Talk(second, std::move(opened), {prompt.begin(), prompt.begin() + 256});
  other.Feed(std::span(prompt).subspan(256), 50);
  const std::vector<float> second_outputs = other.Feed(next, 1);
  EXPECT_EQ(second_outputs, first_outputs);

  const Figures stats = env_.Stats();
  EXPECT_EQ(stats.Find("prefix_hit_tokens"), 256u);
  EXPECT_EQ(stats.Find("sealed_blocks"), 4u);
  EXPECT_EQ(stats.Find("sequences"), 2u);
  EXPECT_EQ(stats.Find("leases"), 8u);
  auto admin = Admin::Connect(env_.socket()).value();
  const std::vector<StoreRow> rows = admin.Stores().value();
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].figures.Find("blocks"), 4u);
  EXPECT_EQ(rows[0].figures.Find("leased_blocks"), 4u);
  EXPECT_EQ(rows[0].figures.Find("logical_f16_bytes"), 4 * first_store.info().logical_block_bytes);
}

// Speculative tokens of which some or none are accepted: what was reserved beyond them is gone for the next query.
TEST_P(SequenceTest, RowsBeyondTheAdvancedTokensAreGivenUp) {
  Client client = env_.Connect();
  Store store = client.OpenStore(SpecOf(model_.shape(), "f32", "f32")).value();
  Conversation talk = Talk(client, store.Open({}, Options()).value(), {});
  talk.Feed(RandomTokens(100, 71), 30);
  const std::vector<TokenId> guesses = RandomTokens(5, 72);
  Tensor q = client.Allocate(1, model_.shape().q_heads, model_.shape().head_dim).value();
  Tensor out = client.Allocate(1, model_.shape().q_heads, model_.shape().head_dim).value();
  const std::vector<float> query = model_.Row(talk.tokens(), 0, Side::kQuery, 0, 0);
  for (std::size_t h = 0; h < model_.shape().q_heads; ++h) {
    std::copy(query.begin(), query.end(), q.f32() + h * query.size());
  }
  for (const std::size_t accepted : {0u, 2u, 0u}) {
    ASSERT_TRUE(talk.AttendOnly(guesses, WriteMode::kInPlace, {}));
    ASSERT_TRUE(talk.sequence().Advance(std::span(guesses).first(accepted)));
    talk.tokens().insert(talk.tokens().end(), guesses.begin(), guesses.begin() + static_cast<std::ptrdiff_t>(accepted));
    EXPECT_EQ(talk.sequence().length(), talk.tokens().size());
    const AttendArgs args{.q = AsConst(q.view()), .out = out.view(), .scale = 0.125f};
    ASSERT_TRUE(talk.sequence().Attend(1, args));
    const std::vector<float> expected = BruteProbe(model_, talk.tokens(), 0, 1, query, 0.125f);
    EXPECT_LT(MaxDifference(std::span(out.f32(), expected.size()), expected), kF32Tolerance) << accepted;
    const TokenId token = 1;
    EXPECT_FALSE(talk.sequence().Advance({&token, 1})) << "no rows are reserved";
  }
}

TEST_P(SequenceTest, SameTextFedTwiceIsStoredOnce) {
  Client client = env_.Connect();
  Store store = client.OpenStore(SpecOf(model_.shape(), "int8", "int8")).value();
  const std::vector<TokenId> tokens = RandomTokens(200, 13);
  std::vector<float> outputs[2];
  for (auto& output : outputs) {
    Conversation talk = Talk(client, store.Open({}, Options()).value(), {});
    output = talk.Feed(tokens, 40);
  }
  EXPECT_EQ(outputs[0], outputs[1]);
  const Figures stats = env_.Stats();
  EXPECT_EQ(stats.Find("sealed_blocks"), 2u);
  EXPECT_EQ(stats.Find("deduplicated_blocks"), 2u);
}

TEST_P(SequenceTest, ForksGoTheirOwnWays) {
  Client client = env_.Connect();
  Store store = client.OpenStore(SpecOf(model_.shape(), "f32", "f32")).value();
  const std::vector<TokenId> prompt = RandomTokens(230, 14);
  Conversation source = Talk(client, store.Open({}, Options()).value(), {});
  source.Feed(std::span(prompt).first(215), 64);
  source.Feed(std::span(prompt).subspan(215), 1);
  // At the end, in the raw tail, and inside a sealed block.
  for (const std::uint64_t at :
       {std::uint64_t{230}, std::uint64_t{222}, std::uint64_t{210}, std::uint64_t{100}, std::uint64_t{0}}) {
    Result<Sequence> forked = source.sequence().Fork(at);
    ASSERT_TRUE(forked) << forked.error().message;
    EXPECT_EQ(forked->length(), at);
    Conversation fork = Talk(client, std::move(*forked), {prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(at)});
    const std::vector<TokenId> own = RandomTokens(90, 15 + at);
    const std::vector<float> got = fork.Feed(own, 30);
    EXPECT_LT(MaxDifference(got, fork.Expected(at, at + own.size())), kF32Tolerance) << "fork at " << at;
  }
  const std::vector<float> got = source.Feed(RandomTokens(40, 99), 7);
  EXPECT_LT(MaxDifference(got, source.Expected(230, 270)), kF32Tolerance) << "the source must not notice";
  EXPECT_EQ(source.sequence().Fork(271).error().code, ErrorCode::kOutOfRange);
}

TEST_P(SequenceTest, AnotherClientForksALiveSequence) {
  Client owner = env_.Connect();
  Client other = env_.Connect();
  const StoreSpec spec = SpecOf(model_.shape(), "f32", "f32");
  Store owner_store = owner.OpenStore(spec).value();
  Store other_store = other.OpenStore(spec).value();
  const std::vector<TokenId> prompt = RandomTokens(150, 16);
  Conversation source = Talk(owner, owner_store.Open({}, Options()).value(), {});
  source.Feed(prompt, 64);
  // A sequence with local placement tells the daemon of its tokens a block at a time; the fork sees what it has told.
  Result<Sequence> forked = other_store.Fork(source.sequence().id(), 120, Options());
  ASSERT_TRUE(forked) << forked.error().message;
  Conversation fork = Talk(other, std::move(*forked), {prompt.begin(), prompt.begin() + 120});
  const std::vector<float> got = fork.Feed(RandomTokens(60, 17), 20);
  EXPECT_LT(MaxDifference(got, fork.Expected(120, 180)), kF32Tolerance);
  EXPECT_EQ(other_store.Fork(source.sequence().id() + 100, std::nullopt, Options()).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(other_store.Fork(987654321, std::nullopt, Options()).error().code, ErrorCode::kStaleDaemon);
}

TEST_P(SequenceTest, TrimGoesBackToAnyLength) {
  Client client = env_.Connect();
  Store store = client.OpenStore(SpecOf(model_.shape(), "f32", "f32")).value();
  std::vector<TokenId> tokens = RandomTokens(260, 18);
  Conversation talk = Talk(client, store.Open({}, Options()).value(), {});
  talk.Feed(tokens, 64);
  for (const std::uint64_t length :
       {std::uint64_t{250}, std::uint64_t{200}, std::uint64_t{129}, std::uint64_t{70}, std::uint64_t{2}}) {
    const auto trimmed = talk.sequence().Trim(length);
    ASSERT_TRUE(trimmed) << trimmed.error().message;
    ASSERT_EQ(talk.sequence().length(), length);
    const std::vector<TokenId> own = RandomTokens(75, 19 + length);
    const std::vector<float> got = talk.Feed(own, 25);
    EXPECT_LT(MaxDifference(got, talk.Expected(length, length + own.size())), kF32Tolerance) << "after trim to " << length;
  }
  EXPECT_EQ(talk.sequence().Trim(10000).error().code, ErrorCode::kOutOfRange);
  ASSERT_TRUE(talk.sequence().Trim(0));
  const std::vector<float> got = talk.Feed(tokens, 64);
  EXPECT_LT(MaxDifference(got, talk.Expected(0, tokens.size())), kF32Tolerance);
}

TEST_P(SequenceTest, RewindRestoresTheSameBits) {
  Client client = env_.Connect();
  Store store = client.OpenStore(SpecOf(model_.shape(), "turboquant_mse:bits=4", "turboquant_mse:bits=2")).value();
  const std::vector<TokenId> tokens = RandomTokens(205, 20);
  Conversation talk = Talk(client, store.Open({}, Options(ElementType::kF16)).value(), {});
  talk.Feed(tokens, 64);
  const std::vector<TokenId> next = RandomTokens(6, 21);
  ASSERT_TRUE(talk.AttendOnly(next, WriteMode::kInPlace, {}));
  const std::vector<float> before = talk.out();
  Mark mark = talk.sequence().SetMark().value();
  EXPECT_EQ(mark.length, tokens.size());
  for (std::uint64_t round = 0; round < 3; ++round) {
    // Far enough that a block would switch, were the mark not held.
    talk.Feed(RandomTokens(30 + 20 * round, 22 + round), 9);
    const std::uint64_t calls = client.counters().rpc_calls;
    const auto rewound = talk.sequence().Rewind(mark);
    ASSERT_TRUE(rewound) << rewound.error().message;
    EXPECT_EQ(client.counters().rpc_calls - calls, GetParam() == Placement::kLocal ? 0 : 1);
    talk.tokens().resize(tokens.size());
    EXPECT_EQ(talk.sequence().length(), tokens.size());
    ASSERT_TRUE(talk.AttendOnly(next, WriteMode::kInPlace, {}));
    EXPECT_EQ(talk.out(), before) << "round " << round;
  }
  const auto released = talk.sequence().Release(mark);
  ASSERT_TRUE(released) << released.error().message;
  EXPECT_EQ(talk.sequence().Rewind(mark).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(talk.sequence().Release(mark).error().code, ErrorCode::kNotFound);

  // Life goes on as if nothing had happened.
  Conversation plain = Talk(client, store.Open({}, Options(ElementType::kF16)).value(), {});
  plain.Feed(tokens, 64);
  const std::vector<TokenId> rest = RandomTokens(100, 30);
  EXPECT_EQ(talk.Feed(rest, 10), plain.Feed(rest, 10));
}

TEST_P(SequenceTest, MarksNest) {
  Client client = env_.Connect();
  Store store = client.OpenStore(SpecOf(model_.shape(), "turboquant_mse:bits=4", "int8")).value();
  Conversation talk = Talk(client, store.Open({}, Options(ElementType::kF16)).value(), {});
  const std::vector<TokenId> next = RandomTokens(4, 50);
  const auto look = [&] {
    EXPECT_TRUE(talk.AttendOnly(next, WriteMode::kInPlace, {}));
    return talk.out();
  };
  talk.Feed(RandomTokens(90, 51), 30);
  const std::vector<float> at_outer = look();
  const Mark outer = talk.sequence().SetMark().value();
  talk.Feed(RandomTokens(15, 52), 5);
  const std::vector<float> at_inner = look();
  const Mark inner = talk.sequence().SetMark().value();
  talk.Feed(RandomTokens(25, 53), 5);
  ASSERT_TRUE(talk.sequence().Rewind(inner));
  talk.tokens().resize(105);
  EXPECT_EQ(look(), at_inner);
  talk.Feed(RandomTokens(7, 54), 7);
  ASSERT_TRUE(talk.sequence().Rewind(outer));
  talk.tokens().resize(90);
  EXPECT_EQ(look(), at_outer);
  EXPECT_EQ(talk.sequence().Rewind(inner).error().code, ErrorCode::kNotFound) << "rewound past";
  EXPECT_EQ(look(), at_outer) << "a refused rewind changes nothing";
  ASSERT_TRUE(talk.sequence().Release(outer));
  talk.Feed(RandomTokens(200, 55), 33);
}

TEST_P(SequenceTest, ReleaseLetsHeldBackBlocksSwitch) {
  Client client = env_.Connect();
  StoreSpec spec = SpecOf(model_.shape(), "turboquant_mse:bits=2", "turboquant_mse:bits=2");
  Store store = client.OpenStore(spec).value();
  const std::vector<TokenId> tokens = RandomTokens(130, 31);
  Conversation marked = Talk(client, store.Open({}, Options(ElementType::kF16)).value(), {});
  Conversation plain = Talk(client, store.Open({}, Options(ElementType::kF16)).value(), {});
  marked.Feed(std::span(tokens).first(60), 20);
  plain.Feed(std::span(tokens).first(60), 20);
  const Mark mark = marked.sequence().SetMark().value();
  marked.Feed(std::span(tokens).subspan(60), 10);
  const std::vector<TokenId> next = RandomTokens(3, 32);
  ASSERT_TRUE(marked.AttendOnly(next, WriteMode::kInPlace, {}));
  // All of it is raw still: exact but for the tail's f16, which holds the rows exactly.
  std::vector<TokenId>& all = marked.tokens();
  const std::vector<float> raw = marked.out();
  all.insert(all.end(), next.begin(), next.end());
  std::vector<float> expected;
  for (std::size_t layer = 0; layer < model_.shape().layers; ++layer) {
    const std::vector<float> part = BruteForce(model_, all, 130, 133, layer, {}, nullptr);
    expected.insert(expected.end(), part.begin(), part.end());
  }
  all.resize(130);
  EXPECT_LT(MaxDifference(raw, expected), kF32Tolerance);

  ASSERT_TRUE(marked.sequence().Release(mark));
  plain.Feed(std::span(tokens).subspan(60), 10);
  EXPECT_EQ(marked.Feed(next, 3), plain.Feed(next, 3));
}

TEST_P(SequenceTest, TheNewerOfTwoMarksHoldsBackBlocksToo) {
  Client client = env_.Connect();
  Store store = client.OpenStore(SpecOf(model_.shape(), "turboquant_mse:bits=2", "turboquant_mse:bits=2")).value();
  SequenceOptions options = Options();
  options.recent_tokens = 0;
  Conversation talk = Talk(client, store.Open({}, options).value(), {});
  // Block 0 is due at 64 tokens and switches at 80.
  talk.Feed(RandomTokens(65, 61), 50);
  const Mark older = talk.sequence().SetMark().value();
  talk.Feed(RandomTokens(35, 62), 35);
  const Mark newer = talk.sequence().SetMark().value();
  ASSERT_TRUE(talk.sequence().Release(older));
  const std::vector<TokenId> next = RandomTokens(20, 63);
  const std::vector<float> raw = talk.Feed(next, 1);
  EXPECT_LT(MaxDifference(raw, talk.Expected(100, 120)), kF32Tolerance) << "all of it is raw still";
  ASSERT_TRUE(talk.sequence().Rewind(newer));
  talk.tokens().resize(100);
  EXPECT_EQ(talk.Feed(next, 1), raw);
  ASSERT_TRUE(talk.sequence().Release(newer));
  EXPECT_EQ(talk.sequence().length(), 120u);
  talk.Feed(RandomTokens(200, 64), 50);
}

INSTANTIATE_TEST_SUITE_P(Placements, SequenceTest, ::testing::Values(Placement::kService, Placement::kLocal),
                         [](const auto& param_info) { return param_info.param == Placement::kLocal ? "Local" : "Service"; });

TEST(LiveReadTest, SeesWhatTheOwnerHasAdvanced) {
  DaemonEnv env;
  const FakeModel model{ModelShape{}};
  const ModelShape& shape = model.shape();
  Client owner = env.Connect();
  Client reader = env.Connect();
  const StoreSpec spec = SpecOf(shape, "f32", "f32");
  Store owner_store = owner.OpenStore(spec).value();
  Store reader_store = reader.OpenStore(spec).value();
  Conversation talk(
      owner, owner_store.Open({}, {.recent_tokens = 16, .max_step_tokens = kMaxStep, .tail_type = ElementType::kF32}).value(),
      model, {}, kMaxStep);
  Sequence early = reader_store.Read(talk.sequence().id()).value();
  Tensor q = reader.Allocate(1, shape.q_heads, shape.head_dim).value();
  Tensor out = reader.Allocate(1, shape.q_heads, shape.head_dim).value();
  const std::vector<float> row = model.Row(RandomTokens(1, 9), 0, Side::kQuery, 1, 0);
  for (std::size_t h = 0; h < shape.q_heads; ++h) std::copy(row.begin(), row.end(), q.f32() + h * row.size());
  const AttendArgs args{.q = AsConst(q.view()), .out = out.view(), .scale = 0.125f};
  const std::size_t outputs = std::size_t{shape.q_heads} * shape.head_dim;
  EXPECT_EQ(early.Attend(1, args).error().code, ErrorCode::kInvalidArgument) << "nothing is there yet";
  talk.Feed(RandomTokens(100, 33), 50);
  {
    Sequence live = reader_store.Read(talk.sequence().id()).value();
    EXPECT_TRUE(live.read_only());
    EXPECT_EQ(live.length(), 100u);
    for (const std::size_t more : {0, 30, 64}) {
      if (more > 0) talk.Feed(RandomTokens(more, 34 + more), 10);
      const std::vector<float> expected = BruteProbe(model, talk.tokens(), 0, 1, row, 0.125f);
      for (Sequence* const reading : {&live, &early}) {
        const auto attended = reading->Attend(1, args);
        ASSERT_TRUE(attended) << attended.error().message;
        EXPECT_LT(MaxDifference({out.f32(), outputs}, expected), kF32Tolerance);
      }
    }
    EXPECT_EQ(live.Reserve(1).error().code, ErrorCode::kUnsupported);
    EXPECT_EQ(live.Trim(5).error().code, ErrorCode::kUnsupported);
    EXPECT_EQ(live.Advance({}).error().code, ErrorCode::kUnsupported);
    EXPECT_EQ(live.Fork().error().code, ErrorCode::kUnsupported);
  }
  EXPECT_EQ(reader_store.Read(talk.sequence().id() + 100).error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace kvant::testing
