// Worker threads with clients of their own, and what each sequence's calls did.
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <span>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <kvant/client.h>

#include "tests/support/conversation.h"
#include "tests/support/daemon_env.h"

namespace kvant::testing {
namespace {

constexpr std::uint32_t kMaxStep = 64;

class WorkerThreadsTest : public ::testing::Test {
 protected:
  [[nodiscard]] static SequenceOptions Options(Placement placement) {
    return {.placement = placement, .recent_tokens = 16, .max_step_tokens = kMaxStep, .label = "test"};
  }
  /// Reads a prompt with `client`, then lets four threads find it, each with a client made from that one.
  void Share(Client& client) {
    const StoreSpec spec = SpecOf(model_.shape(), "turboquant_mse:bits=4", "turboquant_mse:bits=4");
    const std::vector<TokenId> prompt = RandomTokens(300, 3), next = RandomTokens(5, 4);
    Store store = client.OpenStore(spec).value();
    Conversation talk(client, store.Open({}, Options(Placement::kLocal)).value(), model_, {}, kMaxStep);
    talk.Feed(prompt, 50);
    const std::vector<float> expected = talk.Feed(next, 1);
    std::vector<std::vector<float>> outputs(4);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      threads.emplace_back([&, i] {
        auto own = client.ForThisThread();
        ASSERT_TRUE(own) << own.error().message;
        EXPECT_EQ(own->daemon().boot_token, client.daemon().boot_token);
        Store same = own->OpenStore(spec).value();
        EXPECT_FALSE(same.info().created);
        Sequence sequence = same.Open(prompt, Options(i % 2 == 0 ? Placement::kLocal : Placement::kService)).value();
        EXPECT_EQ(sequence.prefix_hit_tokens(), 256u);
        Conversation other(*own, std::move(sequence), model_, {prompt.begin(), prompt.begin() + 256}, kMaxStep);
        other.Feed(std::span(prompt).subspan(256), 50);
        outputs[i] = other.Feed(next, 1);
      });
    }
    for (std::thread& thread : threads) thread.join();
    for (const std::vector<float>& output : outputs) EXPECT_EQ(output, expected);
  }

  FakeModel model_{ModelShape{}};
};

TEST_F(WorkerThreadsTest, ShareAnEmbeddedDaemon) {
  Client client = Client::Connect("embedded:").value();
  Share(client);
}

TEST_F(WorkerThreadsTest, ShareADaemonOnASocket) {
  DaemonEnv env;
  Client client = env.Connect({.name = "engine", .deadline = std::chrono::milliseconds(20000)});
  Share(client);
}

TEST_F(WorkerThreadsTest, TheEmbeddedDaemonEndsWithTheLastOfThem) {
  Client last = [] {
    Client first = Client::Connect("embedded:").value();
    return first.ForThisThread().value();
  }();
  EXPECT_TRUE(last.Ping());
  EXPECT_TRUE(last.ForThisThread().value().Ping());
}

TEST_F(WorkerThreadsTest, AForkedChildHasNoEmbeddedDaemon) {
  Client client = Client::Connect("embedded:").value();
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    bool refused = false;
    std::thread([&] {
      const auto own = client.ForThisThread();
      refused = !own && own.error().code == ErrorCode::kDisconnected;
    }).join();
    ::_exit(refused ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  EXPECT_TRUE(client.Ping());
}

// Sequences share a client: what it counts is what they count.
TEST_F(WorkerThreadsTest, EachSequenceCountsItsOwnCalls) {
  DaemonEnv env;
  for (const Placement placement : {Placement::kService, Placement::kLocal}) {
    Client client = env.Connect();
    Store store = client.OpenStore(SpecOf(model_.shape(), "int8", "int8")).value();
    Conversation one(client, store.Open({}, Options(placement)).value(), model_, {}, kMaxStep);
    Conversation two(client, store.Open({}, Options(placement)).value(), model_, {}, kMaxStep);
    one.Feed(RandomTokens(100, 1), 20);
    two.Feed(RandomTokens(70, 2), 10, WriteMode::kAppendHeadMajor);
    Sequence fork = two.sequence().Fork().value();
    std::vector<float> q(std::size_t{model_.shape().q_heads} * model_.shape().head_dim, 0.5f), out(q.size());
    const std::size_t heads = model_.shape().q_heads, dim = model_.shape().head_dim;
    const AttendArgs args{.q = {q.data(), ElementType::kF32, 1, heads, dim, heads * dim, dim},
                          .out = {out.data(), ElementType::kF32, 1, heads, dim, heads * dim, dim},
                          .scale = 0.125f};
    const AttendBatchItem items[] = {{&one.sequence(), args}, {&fork, args}, {&fork, args}};
    ASSERT_TRUE(client.AttendBatch(0, items));
    std::vector<float> rows(70 * std::size_t{model_.shape().kv_heads} * dim);
    const TensorView view{rows.data(), ElementType::kF32, 70, model_.shape().kv_heads, dim, model_.shape().kv_heads * dim, dim};
    ASSERT_TRUE(two.sequence().CopyRows(0, 0, 70, view, {}));

    const SequenceCounters first = one.sequence().counters(), second = two.sequence().counters(), third = fork.counters();
    EXPECT_EQ(first.tokens_advanced, 100u);
    EXPECT_EQ(second.tokens_advanced, 70u);
    EXPECT_EQ(third.tokens_advanced, 0u);
    const std::uint64_t layers = model_.shape().layers;
    EXPECT_EQ(first.attend_calls, 5 * layers + 1);
    EXPECT_EQ(second.attend_calls, 7 * layers);
    EXPECT_EQ(third.attend_calls, 2u);
    EXPECT_GT(second.bytes_copied, first.bytes_copied);
    EXPECT_GT(third.bytes_copied, 0u) << "its tail";
    const ClientCounters all = client.counters();
    EXPECT_EQ(first.tokens_advanced + second.tokens_advanced + third.tokens_advanced, all.tokens_advanced);
    EXPECT_EQ(first.attend_calls + second.attend_calls + third.attend_calls, all.attend_calls);
    EXPECT_EQ(first.bytes_copied + second.bytes_copied + third.bytes_copied, all.bytes_copied);
    EXPECT_EQ(first.bytes_zero_copy + second.bytes_zero_copy + third.bytes_zero_copy, all.bytes_zero_copy);
  }
}

}  // namespace
}  // namespace kvant::testing
