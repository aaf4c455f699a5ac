// What attention says through the client library, against plain attention in double.
#include <cmath>
#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include <kvant/client.h>

#include "tests/support/conversation.h"
#include "tests/support/daemon_env.h"

namespace kvant::testing {
namespace {

constexpr std::uint32_t kMaxStep = 96;

SequenceOptions Options(Placement placement, ElementType tail = ElementType::kF32) {
  return {.placement = placement, .recent_tokens = 16, .max_step_tokens = kMaxStep, .tail_type = tail, .label = "test"};
}

std::string Name(Placement placement) { return placement == Placement::kLocal ? "Local" : "Service"; }

class AttentionTest : public ::testing::TestWithParam<Placement> {
 protected:
  DaemonEnv env_;
  FakeModel model_{ModelShape{}};
};

/// With raw f32 codes only the order of additions differs from brute force: products of about 1 over 64 dimensions and up
/// to 400 tokens, each rounded to 2^-24, stay far below 1e-5.
constexpr double kF32Tolerance = 1e-5;

TEST_P(AttentionTest, EqualsBruteForceWithF32Codes) {
  Client client = env_.Connect();
  Store store = client.OpenStore(SpecOf(model_.shape(), "f32", "f32")).value();
  const std::vector<TokenId> tokens = RandomTokens(400, 1);
  Conversation talk(client, store.Open({}, Options(GetParam())).value(), model_, {}, kMaxStep);
  std::vector<float> lse;
  std::vector<float> got = talk.Feed(std::span(tokens).first(330), 70, WriteMode::kInPlace, {}, &lse);
  const std::vector<float> more = talk.Feed(std::span(tokens).subspan(330), 1, WriteMode::kInPlace, {}, &lse);
  got.insert(got.end(), more.begin(), more.end());
  std::vector<float> expected_lse;
  const std::vector<float> expected = talk.Expected(0, tokens.size(), {}, &expected_lse);
  EXPECT_LT(MaxDifference(got, expected), kF32Tolerance);
  EXPECT_LT(MaxDifference(lse, expected_lse), kF32Tolerance);
  EXPECT_EQ(talk.sequence().length(), tokens.size());
}

TEST_P(AttentionTest, WindowSoftcapAndSinksEqualBruteForce) {
  Client client = env_.Connect();
  Store store = client.OpenStore(SpecOf(model_.shape(), "f32", "f32")).value();
  const std::vector<TokenId> tokens = RandomTokens(300, 2);
  for (const AttendStyle& style :
       {AttendStyle{.softcap = 2.0f}, AttendStyle{.window = 33}, AttendStyle{.window = 150, .sinks = true},
        AttendStyle{.softcap = 5.0f, .window = 70, .sinks = true}}) {
    Conversation talk(client, store.Open({}, Options(GetParam())).value(), model_, {}, kMaxStep);
    std::vector<float> lse;
    const std::vector<float> got = talk.Feed(tokens, 61, WriteMode::kInPlace, style, &lse);
    std::vector<float> expected_lse;
    const std::vector<float> expected = talk.Expected(0, tokens.size(), style, &expected_lse);
    EXPECT_LT(MaxDifference(got, expected), kF32Tolerance) << "window " << style.window << " softcap " << style.softcap;
    EXPECT_LT(MaxDifference(lse, expected_lse), kF32Tolerance);
  }
}

TEST_P(AttentionTest, AppendOfEitherLayoutEqualsWritingInPlace) {
  Client client = env_.Connect();
  StoreSpec spec = SpecOf(model_.shape(), "turboquant_mse:bits=4", "turboquant_mse:bits=4");
  Store store = client.OpenStore(spec).value();
  const std::vector<TokenId> tokens = RandomTokens(250, 3);
  std::vector<float> first;
  for (const WriteMode mode : {WriteMode::kInPlace, WriteMode::kAppendTokenMajor, WriteMode::kAppendHeadMajor}) {
    // f16 tails hold the model's rows exactly, so all three ways give the same bits.
    Conversation talk(client, store.Open({}, Options(GetParam(), ElementType::kF16)).value(), model_, {}, kMaxStep);
    const std::uint64_t copied = client.counters().bytes_copied;
    const std::vector<float> got = talk.Feed(tokens, 50, mode);
    if (mode == WriteMode::kInPlace) {
      first = got;
      EXPECT_EQ(client.counters().bytes_copied, copied);
    } else {
      EXPECT_EQ(got, first);
      const ModelShape& shape = model_.shape();
      EXPECT_EQ(client.counters().bytes_copied - copied,
                tokens.size() * shape.layers * shape.kv_heads * shape.head_dim * 2 * 2);
    }
  }
}

TEST_P(AttentionTest, TensorsOutsideTheArenaGiveTheSameAndAreCounted) {
  Client client = env_.Connect();
  Store store = client.OpenStore(SpecOf(model_.shape(), "f32", "f32")).value();
  const ModelShape& shape = model_.shape();
  const std::vector<TokenId> tokens = RandomTokens(90, 4);
  Conversation talk(client, store.Open({}, Options(GetParam())).value(), model_, {}, kMaxStep);
  talk.Feed(std::span(tokens).first(80), 40);
  ASSERT_TRUE(talk.AttendOnly(std::span(tokens).subspan(80), WriteMode::kInPlace, {}));
  const std::vector<float> inside(talk.out().end() - 10 * shape.q_heads * shape.head_dim, talk.out().end());
  const std::vector<float> lse_inside(talk.lse().end() - 10 * shape.q_heads, talk.lse().end());

  std::vector<float> q(10 * shape.q_heads * shape.head_dim);
  for (std::size_t t = 0; t < 10; ++t) {
    for (std::size_t h = 0; h < shape.q_heads; ++h) {
      const auto row = model_.Row(tokens, 80 + t, Side::kQuery, shape.layers - 1, h);
      std::copy(row.begin(), row.end(), q.begin() + static_cast<std::ptrdiff_t>((h * 10 + t) * shape.head_dim));  // heads first
    }
  }
  std::vector<float> out(q.size());
  std::vector<float> lse(10 * shape.q_heads);
  const std::uint64_t copied = client.counters().bytes_copied;
  const AttendArgs args{
      .q = {q.data(), ElementType::kF32, 10, shape.q_heads, shape.head_dim, shape.head_dim, 10 * std::size_t{shape.head_dim}},
      .out = {out.data(), ElementType::kF32, 10, shape.q_heads, shape.head_dim, shape.q_heads * std::size_t{shape.head_dim},
              shape.head_dim},
      .lse = lse.data(),
      .scale = AttendStyle{}.scale(shape)};
  const auto attended = talk.sequence().Attend(shape.layers - 1, args);
  ASSERT_TRUE(attended) << attended.error().message;
  EXPECT_EQ(out, inside);
  EXPECT_EQ(lse, lse_inside);
  const std::uint64_t staged = (q.size() + out.size() + lse.size()) * sizeof(float);
  EXPECT_EQ(client.counters().bytes_copied - copied, GetParam() == Placement::kService ? staged : 0);
}

TEST_P(AttentionTest, ProbeSeesAllThatIsCached) {
  Client client = env_.Connect();
  const ModelShape& shape = model_.shape();
  Store store = client.OpenStore(SpecOf(shape, "f32", "f32")).value();
  Conversation talk(client, store.Open({}, Options(GetParam())).value(), model_, {}, kMaxStep);
  Tensor q = client.Allocate(1, shape.q_heads, shape.head_dim).value();
  Tensor out = client.Allocate(1, shape.q_heads, shape.head_dim).value();
  const std::vector<float> row = model_.Row(RandomTokens(1, 9), 0, Side::kQuery, 0, 0);
  for (std::size_t h = 0; h < shape.q_heads; ++h) std::copy(row.begin(), row.end(), q.f32() + h * row.size());
  AttendArgs args{.q = AsConst(q.view()), .out = out.view(), .scale = 0.125f};
  EXPECT_EQ(talk.sequence().Attend(0, args).error().code, ErrorCode::kInvalidArgument) << "nothing is cached";
  talk.Feed(RandomTokens(200, 40), 50);
  for (const std::uint32_t window : {0u, 2u, 33u, 150u, 200u, 1000u}) {
    args.window = window;
    const auto attended = talk.sequence().Attend(1, args);
    ASSERT_TRUE(attended) << attended.error().message;
    // It stands behind the last token: one place of its window is its own, which holds nothing.
    const std::size_t first = window == 0 || window > 200 ? 0 : 201 - window;
    EXPECT_LT(MaxDifference({out.f32(), std::size_t{shape.q_heads} * shape.head_dim},
                            BruteProbe(model_, talk.tokens(), first, 1, row, 0.125f)),
              kF32Tolerance)
        << "window " << window;
  }
  args.window = 1;
  EXPECT_EQ(talk.sequence().Attend(1, args).error().code, ErrorCode::kInvalidArgument);
}

TEST_P(AttentionTest, BatchEqualsOneByOne) {
  Client client = env_.Connect();
  const ModelShape& shape = model_.shape();
  Store store = client.OpenStore(SpecOf(shape, "turboquant_mse:bits=4", "turboquant_mse:bits=2")).value();
  const std::vector<TokenId> prompt = RandomTokens(200, 5);
  std::vector<Conversation> talks;
  for (std::size_t i = 0; i < 3; ++i) {
    talks.emplace_back(client, store.Open({}, Options(GetParam(), ElementType::kF16)).value(), model_, std::vector<TokenId>(),
                       kMaxStep);
    talks.back().Feed(prompt, 64);
    talks.back().Feed(RandomTokens(10 + 30 * i, 6 + i), 64);
  }
  std::vector<std::vector<float>> alone;
  for (Conversation& talk : talks) {
    ASSERT_TRUE(talk.AttendOnly(RandomTokens(5, 77), WriteMode::kInPlace, {}));
    alone.emplace_back(talk.out().end() - 5 * shape.q_heads * shape.head_dim, talk.out().end());
  }
  Tensor q = client.Allocate(15, shape.q_heads, shape.head_dim).value();
  Tensor out = client.Allocate(15, shape.q_heads, shape.head_dim).value();
  std::vector<AttendBatchItem> items;
  const std::size_t width = 5 * shape.q_heads * shape.head_dim;
  for (std::size_t i = 0; i < 3; ++i) {
    std::vector<TokenId> all = talks[i].tokens();
    const std::vector<TokenId> next = RandomTokens(5, 77);
    all.insert(all.end(), next.begin(), next.end());
    for (std::size_t t = 0; t < 5; ++t) {
      for (std::size_t h = 0; h < shape.q_heads; ++h) {
        const auto row = model_.Row(all, all.size() - 5 + t, Side::kQuery, shape.layers - 1, h);
        std::copy(row.begin(), row.end(), q.f32() + i * width + (t * shape.q_heads + h) * shape.head_dim);
      }
    }
    TensorView q_view = q.view();
    TensorView out_view = out.view();
    q_view.data = q.f32() + i * width;
    out_view.data = out.f32() + i * width;
    q_view.tokens = out_view.tokens = 5;
    items.push_back({&talks[i].sequence(), {.q = AsConst(q_view), .out = out_view, .scale = AttendStyle{}.scale(shape)}});
  }
  const std::uint64_t calls = client.counters().rpc_calls;
  const auto attended = client.AttendBatch(shape.layers - 1, items);
  ASSERT_TRUE(attended) << attended.error().message;
  EXPECT_EQ(client.counters().rpc_calls - calls, GetParam() == Placement::kService ? 1 : 0);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(std::vector<float>(out.f32() + i * width, out.f32() + (i + 1) * width), alone[i]) << "sequence " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(Placements, AttentionTest, ::testing::Values(Placement::kService, Placement::kLocal),
                         [](const auto& param_info) { return Name(param_info.param); });

/// A safetensors image with made-up means for codecs that centre.
std::vector<std::byte> MeansArtifact(const ModelShape& shape) {
  const std::size_t bytes = std::size_t{shape.kv_heads} * shape.head_dim * sizeof(float);
  std::string header = "{";
  std::size_t offset = 0;
  for (std::uint32_t layer = 0; layer < shape.layers; ++layer) {
    for (const char* side : {"keys", "values"}) {
      header += (offset == 0 ? "\"" : ",\"") + ("layers." + std::to_string(layer) + "." + side) +
                ".mean\":{\"dtype\":\"F32\",\"shape\":[" + std::to_string(shape.kv_heads) + "," +
                std::to_string(shape.head_dim) + "],\"data_offsets\":[" + std::to_string(offset) + "," +
                std::to_string(offset + bytes) + "]}";
      offset += bytes;
    }
  }
  header += "}";
  std::vector<std::byte> image(8 + header.size() + offset);
  const std::uint64_t header_bytes = header.size();
  std::memcpy(image.data(), &header_bytes, 8);
  std::memcpy(image.data() + 8, header.data(), header.size());
  for (std::size_t i = 0; i < offset / sizeof(float); ++i) {
    const float mean = 0.25f * std::sin(static_cast<float>(i));
    std::memcpy(image.data() + 8 + header.size() + i * sizeof(float), &mean, sizeof(float));
  }
  return image;
}

class PlacementsTest : public ::testing::TestWithParam<std::tuple<const char*, const char*>> {};

TEST_P(PlacementsTest, GiveTheSameBits) {
  DaemonEnv env;
  const FakeModel model{ModelShape{}};
  const auto [keys, values] = GetParam();
  const std::vector<TokenId> tokens = RandomTokens(500, 8);
  std::vector<float> outputs[3];
  std::vector<float> lse[3];
  std::size_t at = 0;
  for (const auto& [placement, threads] : {std::pair{Placement::kService, 1}, {Placement::kLocal, 1}, {Placement::kLocal, 2}}) {
    Client client = env.Connect({.threads = static_cast<std::size_t>(threads)});
    StoreSpec spec = SpecOf(model.shape(), keys, values, 128);
    spec.salt = std::to_string(at);  // no sharing: each encodes its own blocks
    spec.name += std::to_string(at);
    if (std::string(keys).find("center=1") != std::string::npos) spec.plan.artifact = MeansArtifact(model.shape());
    auto opened = client.OpenStore(spec);
    ASSERT_TRUE(opened) << opened.error().message;
    Store store = std::move(*opened);
    Conversation talk(client, store.Open({}, Options(placement, ElementType::kF16)).value(), model, {}, kMaxStep);
    outputs[at] = talk.Feed(std::span(tokens).first(380), 96, WriteMode::kInPlace, {}, &lse[at]);
    const std::vector<float> more = talk.Feed(std::span(tokens).subspan(380), 1, WriteMode::kInPlace, {}, &lse[at]);
    outputs[at].insert(outputs[at].end(), more.begin(), more.end());
    // Back into a sealed block, forward, speculating, and on in a fork.
    ASSERT_TRUE(talk.sequence().Trim(333));
    talk.tokens().resize(333);
    const auto collect = [&](Conversation& from, std::size_t n, std::uint64_t seed) {
      const std::vector<float> got = from.Feed(RandomTokens(n, seed), 17, WriteMode::kInPlace, {}, &lse[at]);
      outputs[at].insert(outputs[at].end(), got.begin(), got.end());
    };
    collect(talk, 120, 80);
    const Mark mark = talk.sequence().SetMark().value();
    collect(talk, 60, 81);
    ASSERT_TRUE(talk.sequence().Rewind(mark));
    ASSERT_TRUE(talk.sequence().Release(mark));
    talk.tokens().resize(453);
    Conversation fork(client, talk.sequence().Fork(440).value(), model, {talk.tokens().begin(), talk.tokens().begin() + 440},
                      kMaxStep);
    collect(fork, 150, 82);
    collect(talk, 150, 83);
    if (at == 0) {
      // The codes do take part: with raw rows alone the outputs would be brute force's.
      const std::vector<float> expected = talk.Expected(453, 603);
      EXPECT_GT(MaxDifference(std::span(outputs[0]).last(expected.size()), expected), 1e-4);
    }
    ++at;
  }
  EXPECT_EQ(outputs[0], outputs[1]);
  EXPECT_EQ(lse[0], lse[1]);
  EXPECT_EQ(outputs[0], outputs[2]);
  EXPECT_EQ(lse[0], lse[2]);
}

INSTANTIATE_TEST_SUITE_P(Codecs, PlacementsTest,
                         ::testing::Values(std::tuple{"turboquant_mse:bits=4", "turboquant_mse:bits=4"},
                                           std::tuple{"turboquant_mse:bits=2", "turboquant_mse:bits=2"},
                                           std::tuple{"int8", "int8"},
                                           std::tuple{"turboquant_mse:bits=3,center=1", "turboquant_mse:bits=1,center=1"},
                                           std::tuple{"f16", "bf16"}),
                         [](const auto& param_info) { return "Codec" + std::to_string(param_info.index); });

}  // namespace
}  // namespace kvant::testing
