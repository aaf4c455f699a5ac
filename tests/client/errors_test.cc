// What callers do wrong, and what goes wrong around them: each has its own error and leaves things usable.
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <limits>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <kvant/admin.h>
#include <kvant/client.h>

#include "tests/support/conversation.h"
#include "tests/support/daemon_env.h"

namespace kvant::testing {
namespace {

using ::testing::HasSubstr;

constexpr std::uint32_t kMaxStep = 64;

template <typename T>
void ExpectError(const Result<T>& result, ErrorCode code, const std::string& words) {
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(ErrorCodeName(result.error().code), ErrorCodeName(code)) << result.error().message;
  EXPECT_THAT(result.error().message, HasSubstr(words));
}

SequenceOptions Options(Placement placement, ElementType tail = ElementType::kF16) {
  return {.placement = placement, .recent_tokens = 16, .max_step_tokens = kMaxStep, .tail_type = tail, .label = "test"};
}

class ErrorsTest : public ::testing::TestWithParam<Placement> {
 protected:
  DaemonEnv env_;
  FakeModel model_{ModelShape{}};
};

TEST_P(ErrorsTest, NotFiniteRowsAreRefusedAndNamed) {
  Client client = env_.Connect();
  const ModelShape& shape = model_.shape();
  Store store = client.OpenStore(SpecOf(shape, "int8", "int8")).value();
  Conversation talk(client, store.Open({}, Options(GetParam())).value(), model_, {}, kMaxStep);
  talk.Feed(RandomTokens(30, 41), 30);
  ASSERT_TRUE(talk.sequence().Reserve(4));
  const std::size_t count = 4 * shape.kv_heads * shape.head_dim;
  std::vector<float> keys(count, 0.5f);
  std::vector<float> values(count, 0.25f);
  const auto view = [&](const std::vector<float>& data) {
    return ConstTensorView{data.data(),    ElementType::kF32, 4,
                           shape.kv_heads, shape.head_dim,    std::size_t{shape.kv_heads} * shape.head_dim,
                           shape.head_dim};
  };
  ASSERT_TRUE(talk.sequence().Append(1, view(keys), view(values)));
  values[(2 * shape.kv_heads + 1) * shape.head_dim + 7] = NAN;
  ExpectError(talk.sequence().Append(1, view(keys), view(values)), ErrorCode::kNotFinite,
              "the value row of layer 1, KV head 1, position 32");
  values[(2 * shape.kv_heads + 1) * shape.head_dim + 7] = 0;
  keys[5] = -INFINITY;
  ExpectError(talk.sequence().Append(1, view(keys), view(values)), ErrorCode::kNotFinite,
              "the key row of layer 1, KV head 0, position 30");
  keys[5] = 70000.0f;  // an f16 tail ends at 65504
  ExpectError(talk.sequence().Append(1, view(keys), view(values)), ErrorCode::kNotFinite, "beyond the range of f16");

  // Written in place: attend looks.
  NewRows rows = talk.sequence().Reserve(4).value();
  Tensor q = client.Allocate(4, shape.q_heads, shape.head_dim).value();
  Tensor out = client.Allocate(4, shape.q_heads, shape.head_dim).value();
  const AttendArgs args{.q = AsConst(q.view()), .out = out.view(), .scale = 1.0f};
  const TensorView in_place = rows.Keys(0);
  for (std::size_t t = 0; t < 4; ++t) {
    for (std::size_t h = 0; h < shape.kv_heads; ++h) {
      for (std::size_t d = 0; d < shape.head_dim; ++d) {
        StoreElement(in_place.data, in_place.type, t * in_place.token_stride + h * in_place.head_stride + d, 1.0f);
        StoreElement(rows.Values(0).data, in_place.type, t * in_place.token_stride + h * in_place.head_stride + d, 1.0f);
      }
    }
  }
  EXPECT_TRUE(talk.sequence().Attend(0, args));
  StoreElement(in_place.data, in_place.type, 3 * in_place.token_stride + in_place.head_stride + 9, NAN);
  ExpectError(talk.sequence().Attend(0, args), ErrorCode::kNotFinite, "layer 0");

  // Nothing of this is stored, and the sequence goes on.
  EXPECT_EQ(talk.sequence().length(), 30u);
  talk.Feed(RandomTokens(100, 42), 20);
}

TEST_P(ErrorsTest, ShapesThatDoNotMatchTheStore) {
  Client client = env_.Connect();
  const ModelShape& shape = model_.shape();
  Store store = client.OpenStore(SpecOf(shape, "int8", "int8")).value();
  Sequence sequence = store.Open({}, Options(GetParam())).value();
  Tensor rows = client.Allocate(4, shape.kv_heads, shape.head_dim).value();
  Tensor q = client.Allocate(4, shape.q_heads, shape.head_dim).value();
  Tensor out = client.Allocate(4, shape.q_heads, shape.head_dim).value();
  const ConstTensorView good = AsConst(rows.view());
  ExpectError(sequence.Append(0, good, good), ErrorCode::kInvalidArgument, "no rows are reserved");
  ASSERT_EQ(sequence.Reserve(4).value().tokens(), 4u);
  const auto changed = [&](auto change) {
    ConstTensorView view = good;
    change(view);
    return view;
  };
  ExpectError(sequence.Append(0, changed([](auto& v) { v.heads = 1; }), good), ErrorCode::kInvalidArgument, "[4, 1, 64]");
  ExpectError(sequence.Append(0, good, changed([](auto& v) { v.dim = 32; })), ErrorCode::kInvalidArgument,
              "values are [4, 2, 32]");
  ExpectError(sequence.Append(0, changed([](auto& v) { v.tokens = 3; }), good), ErrorCode::kInvalidArgument, "[3, 2, 64]");
  ExpectError(sequence.Append(0, changed([](auto& v) { v.data = nullptr; }), good), ErrorCode::kInvalidArgument, "null");
  ExpectError(sequence.Append(0, changed([](auto& v) { v.token_stride = SIZE_MAX / 2; }), good), ErrorCode::kInvalidArgument,
              "strides");
  ExpectError(sequence.Append(0, changed([](auto& v) { v.type = static_cast<ElementType>(9); }), good),
              ErrorCode::kInvalidArgument, "9");
  ExpectError(sequence.Append(2, good, good), ErrorCode::kOutOfRange, "layer 2 of 2");
  ASSERT_TRUE(sequence.Append(0, good, good));

  const AttendArgs args{.q = AsConst(q.view()), .out = out.view(), .scale = 0.125f};
  const auto with = [&](auto change) {
    AttendArgs result = args;
    change(result);
    return sequence.Attend(0, result);
  };
  EXPECT_TRUE(with([](auto&) {}));
  ExpectError(sequence.Attend(7, args), ErrorCode::kOutOfRange, "layer 7");
  ExpectError(with([](auto& a) {
                a.q.dim = 32;
                a.out.dim = 32;
              }),
              ErrorCode::kInvalidArgument, "head_dim 64");
  ExpectError(with([](auto& a) {
                a.q.heads = 3;
                a.out.heads = 3;
              }),
              ErrorCode::kInvalidArgument, "not a multiple");
  ExpectError(with([](auto& a) { a.out.tokens = 2; }), ErrorCode::kInvalidArgument, "out is");
  ExpectError(with([](auto& a) { a.q.data = nullptr; }), ErrorCode::kInvalidArgument, "q");
  ExpectError(with([](auto& a) { a.out.data = nullptr; }), ErrorCode::kInvalidArgument, "out");
  ExpectError(with([](auto& a) { a.scale = 0; }), ErrorCode::kInvalidArgument, "scale");
  ExpectError(with([](auto& a) { a.scale = NAN; }), ErrorCode::kInvalidArgument, "scale");
  ExpectError(with([](auto& a) { a.q.head_stride = SIZE_MAX; }), ErrorCode::kInvalidArgument, "strides");
  const std::vector<TokenId> five(5, 1);
  ExpectError(sequence.Advance(five), ErrorCode::kInvalidArgument, "4 rows are reserved");
  // Ids that are not tokens: nothing changes.
  for (const TokenId bad : {TokenId{-1}, TokenId{1} << 32, std::numeric_limits<TokenId>::max()}) {
    const std::vector<TokenId> ids = {1, bad};
    ExpectError(sequence.Advance(ids), ErrorCode::kInvalidArgument, std::to_string(bad));
    ExpectError(store.Open(ids, Options(GetParam())), ErrorCode::kInvalidArgument, std::to_string(bad));
  }
  EXPECT_EQ(sequence.length(), 0u);
  const std::vector<TokenId> largest = {0, TokenId{UINT32_MAX}};
  EXPECT_TRUE(sequence.Advance(largest));
  EXPECT_EQ(sequence.length(), 2u);
  ExpectError(sequence.Reserve(0), ErrorCode::kInvalidArgument, "0 tokens");
}

TEST_P(ErrorsTest, TailFullWhileAMarkIsHeld) {
  Client client = env_.Connect();
  Store store = client.OpenStore(SpecOf(model_.shape(), "int8", "int8")).value();
  Conversation talk(client, store.Open({}, Options(GetParam())).value(), model_, {}, kMaxStep);
  const Mark mark = talk.sequence().SetMark().value();
  Result<NewRows> rows = talk.sequence().Reserve(kMaxStep);
  while (rows) {
    const std::vector<TokenId> tokens(rows->tokens(), 3);
    ASSERT_TRUE(talk.sequence().Advance(tokens));
    rows = talk.sequence().Reserve(kMaxStep);
  }
  EXPECT_EQ(rows.error().code, ErrorCode::kTailFull) << rows.error().message;
  EXPECT_GE(talk.sequence().length(), 16u + 16u + 64u + kMaxStep);
  ASSERT_TRUE(talk.sequence().Release(mark));
  EXPECT_TRUE(talk.sequence().Reserve(kMaxStep)) << "sealing went on, there is room again";
}

TEST_P(ErrorsTest, FullStoreRefusesAndTheSequenceStaysUsable) {
  // Room for a handful of blocks.
  const ModelShape shape{.layers = 4, .kv_heads = 4, .q_heads = 4, .head_dim = 128};
  const FakeModel model(shape);
  DaemonOptions options;
  options.budget_bytes = std::size_t{4} << 20;
  DaemonEnv env(options);
  Client client = env.Connect();
  Store store = client.OpenStore(SpecOf(shape, "f16", "f16")).value();  // 512 KiB a block
  std::vector<std::unique_ptr<Conversation>> talks;
  std::optional<Error> full;
  for (std::uint64_t i = 0; i < 20 && !full; ++i) {
    auto sequence = store.Open({}, Options(GetParam()));
    ASSERT_TRUE(sequence) << sequence.error().message;
    talks.push_back(std::make_unique<Conversation>(client, std::move(*sequence), model, std::vector<TokenId>(), kMaxStep));
    for (std::uint64_t step = 0; step < 3 && !full; ++step) {
      if (auto stepped = talks.back()->Step(RandomTokens(48, 50 * i + step), WriteMode::kInPlace, {}); !stepped)
        full = stepped.error();
    }
  }
  ASSERT_TRUE(full) << "the budget was never reached";
  EXPECT_EQ(full->code, ErrorCode::kStoreFull) << full->message;
  EXPECT_GE(env.Stats().Find("store_full_errors"), 1u);
  EXPECT_LE(env.Stats().Find("resident_bytes").value() + env.Stats().Find("metadata_bytes").value(), options.budget_bytes);
  Conversation& last = *talks.back();
  const std::uint64_t length = last.sequence().length();
  EXPECT_EQ(last.tokens().size(), length) << "the tokens of the failed advance are part of the sequence";
  // It goes on in the raw tail, and attention over it is right.
  ASSERT_TRUE(last.AttendOnly(RandomTokens(2, 777), WriteMode::kInPlace, {}));
  std::vector<TokenId> all = last.tokens();
  for (const TokenId token : RandomTokens(2, 777)) all.push_back(token);
  const std::vector<float> expected = BruteForce(model, all, length, length + 2, 0, {}, nullptr);
  EXPECT_LT(MaxDifference(std::span(last.out()).first(expected.size()), expected), 2e-3) << "f16 codes and tails";
  // Others let go: the next advance finds room.
  while (talks.size() > 1) talks.erase(talks.begin());
  std::optional<Error> still;
  if (auto stepped = last.Step(RandomTokens(2, 777), WriteMode::kInPlace, {}); !stepped) still = stepped.error();
  EXPECT_FALSE(still) << still->message;
}

INSTANTIATE_TEST_SUITE_P(Placements, ErrorsTest, ::testing::Values(Placement::kService, Placement::kLocal),
                         [](const auto& param_info) { return param_info.param == Placement::kLocal ? "Local" : "Service"; });

TEST(StoreErrorsTest, AttachingWithAnotherIdentitySaysThatItDiffers) {
  DaemonEnv env;
  Client client = env.Connect();
  const StoreSpec spec = SpecOf(ModelShape{}, "int8", "int8");
  ASSERT_TRUE(client.OpenStore(spec));
  ASSERT_TRUE(client.OpenStore(spec));
  StoreSpec other = spec;
  other.model = "another";
  ExpectError(client.OpenStore(other), ErrorCode::kIdentityMismatch, spec.name);
  other = spec;
  other.head_dim = 128;
  ExpectError(client.OpenStore(other), ErrorCode::kIdentityMismatch, spec.name);
  other = spec;
  other.plan.values = "turboquant_mse:bits=4";
  ExpectError(client.OpenStore(other), ErrorCode::kIdentityMismatch, spec.name);
  other = spec;
  other.name = "bits";
  other.plan.keys = "turboquant_mse:bits=5";
  ExpectError(client.OpenStore(other), ErrorCode::kInvalidArgument, "bits");
  other.plan.keys = "no_such_codec";
  ExpectError(client.OpenStore(other), ErrorCode::kInvalidArgument, "no_such_codec");
  other.plan.keys = "int8";
  other.head_dim = 12;
  ExpectError(client.OpenStore(other), ErrorCode::kInvalidArgument, "head_dim");
  other.head_dim = 64;
  other.plan.artifact.resize(100, std::byte{7});
  EXPECT_FALSE(client.OpenStore(other));
}

TEST(StoreErrorsTest, BudgetSmallerThanOneBlock) {
  DaemonOptions options;
  options.budget_bytes = std::size_t{4} << 20;
  DaemonEnv env(options);
  Client client = env.Connect();
  StoreSpec spec = SpecOf({.layers = 64, .kv_heads = 8, .q_heads = 8, .head_dim = 128}, "f32", "f32", 128);
  const auto store = client.OpenStore(spec);
  ASSERT_FALSE(store);
  EXPECT_THAT(store.error().message, HasSubstr("budget"));
}

TEST(ArenaErrorsTest, FullArenaSaysHowMuchIsThere) {
  DaemonEnv env;
  Client client = env.Connect({.arena_bytes = std::size_t{1} << 20});
  std::vector<Tensor> tensors;
  Result<Tensor> tensor = client.Allocate(100, 8, 64);
  while (tensor) {
    tensors.push_back(std::move(*tensor));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(tensors.back().view().data) % 64, 0u);
    tensor = client.Allocate(100, 8, 64);
  }
  EXPECT_EQ(tensors.size(), 5u);  // of 200 KiB each
  ExpectError(tensor, ErrorCode::kOutOfRange, "arena_bytes");
  tensors.pop_back();
  EXPECT_TRUE(client.Allocate(100, 8, 64)) << "freed memory is used again";
  ExpectError(client.Allocate(SIZE_MAX / 2, SIZE_MAX / 2, 4), ErrorCode::kInvalidArgument, "larger than memory");
  ExpectError(client.Allocate(0, 1, 1), ErrorCode::kInvalidArgument, "empty");
  Store store = client.OpenStore(SpecOf(ModelShape{}, "int8", "int8")).value();
  SequenceOptions large = Options(Placement::kService);
  large.max_step_tokens = 4096;
  ExpectError(store.Open({}, large), ErrorCode::kOutOfRange, "tail");
  large.max_step_tokens = UINT32_MAX;
  ExpectError(store.Open({}, large), ErrorCode::kInvalidArgument, "max_step_tokens");
}

TEST(ConnectErrorsTest, NobodyThere) {
  DaemonEnv env;
  const std::string directory = std::filesystem::path(env.socket()).parent_path();
  ExpectError(Client::Connect("unix:" + directory + "/missing.sock"), ErrorCode::kDisconnected, "missing.sock");
  ExpectError(Client::Connect(directory + "/missing.sock"), ErrorCode::kDisconnected, "No such file");
  ExpectError(Client::Connect(""), ErrorCode::kInvalidArgument, "has no path");
  ExpectError(Client::Connect("unix:/" + std::string(200, 'x')), ErrorCode::kInvalidArgument, "a unix socket takes 107");
  // A socket file whose daemon is gone.
  const std::string stale = directory + "/stale.sock";
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, stale.c_str());
  ASSERT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ::close(fd);
  ExpectError(Client::Connect(stale), ErrorCode::kDisconnected, "Connection refused");
  ExpectError(Admin::Connect(stale), ErrorCode::kDisconnected, "stale.sock");
}

TEST(ConnectErrorsTest, DaemonThatStopsGivesOneClearError) {
  DaemonEnv env;
  Client client = env.Connect();
  const FakeModel model{ModelShape{}};
  Store store = client.OpenStore(SpecOf(model.shape(), "int8", "int8")).value();
  Conversation talk(client, store.Open({}, Options(Placement::kLocal)).value(), model, {}, kMaxStep);
  talk.Feed(RandomTokens(200, 60), 50);
  Tensor tensor = client.Allocate(1, 1, 8).value();
  env.Stop();
  const auto ping = client.Ping();
  ExpectError(ping, ErrorCode::kDisconnected, env.socket());
  const auto again = client.Ping();
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().message, ping.error().message);
  ExpectError(talk.sequence().Trim(3), ErrorCode::kDisconnected, env.socket());
  ExpectError(store.Open({}, Options(Placement::kService)), ErrorCode::kDisconnected, env.socket());
  tensor.f32()[0] = 1.0f;  // the memory is ours still
  DaemonEnv other;
  EXPECT_TRUE(other.Connect().Ping());
}

TEST(ThreadTest, OtherThreadsAreRefusedButMayDestroy) {
  DaemonEnv env;
  const FakeModel model{ModelShape{}};
  std::optional<Client> client = env.Connect();
  std::optional<Store> store = client->OpenStore(SpecOf(model.shape(), "int8", "int8")).value();
  std::optional<Sequence> sequence = store->Open({}, Options(Placement::kService)).value();
  std::optional<Sequence> kept = store->Open({}, Options(Placement::kService)).value();
  std::optional<Tensor> tensor = client->Allocate(1, 1, 8).value();
  EXPECT_EQ(env.Stats().Find("sequences"), 2u);
  std::thread([&] {
    ExpectError(client->Ping(), ErrorCode::kWrongThread, "ping");
    ExpectError(store->Open({}, Options(Placement::kService)), ErrorCode::kWrongThread, "open sequence");
    ExpectError(sequence->Reserve(1), ErrorCode::kWrongThread, "reserve");
    ExpectError(client->Allocate(1, 1, 8), ErrorCode::kWrongThread, "allocate");
    EXPECT_EQ(sequence->length(), 0u);
    sequence.reset();
    tensor.reset();
    // A thread may have clients of its own meanwhile.
    Client own = env.Connect();
    EXPECT_TRUE(own.Ping());
  }).join();
  ASSERT_TRUE(client->Ping());  // here the remains go
  EXPECT_EQ(env.Stats().Find("sequences"), 1u);
  std::thread([&] {
    kept.reset();
    store.reset();
    client.reset();
  }).join();
  // Nothing of that connection is left to call; another one of this thread cleans up.
  Client other = env.Connect();
  ASSERT_TRUE(other.Ping());
  EXPECT_EQ(env.Stats().Find("sequences"), 0u);
}

TEST(ThreadTest, ConnectionOfAnEndedThreadIsCut) {
  DaemonEnv env;
  std::optional<Client> client;
  std::optional<Tensor> tensor;
  std::thread([&] {
    client = env.Connect();
    tensor = client->Allocate(1, 1, 8).value();
  }).join();
  EXPECT_EQ(env.Stats().Find("arenas"), 1u);
  tensor.reset();
  client.reset();
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (env.Stats().Find("arenas") != 0 && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(env.Stats().Find("arenas"), 0u);
}

TEST(EmbeddedTest, ServesItself) {
  const FakeModel model{ModelShape{}};
  auto client =
      Client::Connect("embedded:", {.arena_bytes = std::size_t{32} << 20, .embedded_budget_bytes = std::size_t{64} << 20});
  ASSERT_TRUE(client) << client.error().message;
  EXPECT_EQ(client->daemon().budget_bytes, std::size_t{64} << 20);
  EXPECT_EQ(client->daemon().pid, static_cast<std::uint64_t>(::getpid()));
  Store store = client->OpenStore(SpecOf(model.shape(), "f32", "f32")).value();
  for (const Placement placement : {Placement::kService, Placement::kLocal}) {
    Conversation talk(*client, store.Open({}, Options(placement, ElementType::kF32)).value(), model, {}, kMaxStep);
    const std::vector<float> got = talk.Feed(RandomTokens(150, 70), 30);
    EXPECT_LT(MaxDifference(got, talk.Expected(0, 150)), 1e-5);
  }
}

TEST(MovedFromTest, IsRefused) {
  DaemonEnv env;
  Client client = env.Connect();
  Client moved = std::move(client);
  ExpectError(client.Ping(), ErrorCode::kInvalidArgument, "moved from");  // NOLINT(bugprone-use-after-move): that is the test
  EXPECT_TRUE(moved.Ping());
}

}  // namespace
}  // namespace kvant::testing
