// The claims of the zero-copy path, as figures: nothing copied, no page touched for the first time, no call that need not be.
#include <sys/resource.h>

#include <chrono>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <kvant/client.h>

#include "tests/support/conversation.h"
#include "tests/support/daemon_env.h"

namespace kvant::testing {
namespace {

long PageFaults() {
  rusage usage{};
  EXPECT_EQ(::getrusage(RUSAGE_THREAD, &usage), 0);
  return usage.ru_minflt + usage.ru_majflt;
}

TEST(CountersTest, ZeroCopyPathCopiesNothing) {
  DaemonEnv env;
  const FakeModel model{ModelShape{}};
  const ModelShape& shape = model.shape();
  for (const Placement placement : {Placement::kService, Placement::kLocal}) {
    Client client = env.Connect();
    Store store = client.OpenStore(SpecOf(shape, "turboquant_mse:bits=4", "turboquant_mse:bits=4")).value();
    Conversation talk(client, store.Open({}, {.placement = placement, .recent_tokens = 16, .max_step_tokens = 64}).value(),
                      model, {}, 64);
    talk.Feed(RandomTokens(300, 1), 50);
    talk.Feed(RandomTokens(40, 2), 1);
    const ClientCounters counters = client.counters();
    EXPECT_EQ(counters.bytes_copied, 0u);
    EXPECT_EQ(counters.tokens_advanced, 340u);
    const std::uint64_t rows = 340 * shape.layers * shape.kv_heads * shape.head_dim * 2 * 2;
    const std::uint64_t queries = 340 * shape.layers * shape.q_heads * shape.head_dim * 4 * 2;
    EXPECT_GE(counters.bytes_zero_copy, rows + queries);
    EXPECT_EQ(env.Stats().Find("bytes_copied"), 0u);
  }
}

TEST(CountersTest, LocalPlacementCallsOncePerBlock) {
  DaemonEnv env;
  const FakeModel model{ModelShape{}};
  Client client = env.Connect();
  Store store = client.OpenStore(SpecOf(model.shape(), "int8", "int8")).value();
  Conversation talk(client,
                    store.Open({}, {.placement = Placement::kLocal, .recent_tokens = 16, .max_step_tokens = 64}).value(), model,
                    {}, 64);
  talk.Feed(RandomTokens(200, 3), 1);  // the first slab is mapped by now
  const std::uint64_t before = client.counters().rpc_calls;
  talk.Feed(RandomTokens(64 * 5, 4), 1);
  EXPECT_EQ(client.counters().rpc_calls - before, 5u);
}

TEST(CountersTest, LocalPlacementHasBlocksEncodedWhileTheEngineGoesOn) {
  constexpr std::uint32_t kBlockTokens = 64;
  constexpr std::uint32_t kRecentTokens = 16;
  DaemonEnv env;
  const FakeModel model{ModelShape{}};
  Client client = env.Connect();
  Store store = client.OpenStore(SpecOf(model.shape(), "int8", "int8", kBlockTokens)).value();
  Conversation talk(
      client, store.Open({}, {.placement = Placement::kLocal, .recent_tokens = kRecentTokens, .max_step_tokens = 64}).value(),
      model, {}, 64);
  talk.Feed(RandomTokens(kBlockTokens + kRecentTokens, 3), 20);  // the first block is due, and nobody waits for it yet
  // Asked from another thread: this one's event loop does not turn, as while an engine computes.
  std::uint64_t sealed = 0;
  std::thread([&] {
    const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while ((sealed = env.Stats().Find("sealed_blocks").value_or(0)) == 0 && std::chrono::steady_clock::now() < patience) {
    }
  }).join();
  EXPECT_EQ(sealed, 1u);
}

TEST(CountersTest, NoPageFaultsPerStepInSteadyState) {
  if (kSanitized) GTEST_SKIP() << "sanitizers fault pages of their own";
  DaemonEnv env;
  const FakeModel model{ModelShape{}};
  const ModelShape& shape = model.shape();
  for (const Placement placement : {Placement::kService, Placement::kLocal}) {
    Client client = env.Connect();
    StoreSpec spec = SpecOf(shape, "turboquant_mse:bits=4", "turboquant_mse:bits=4");
    Store store = client.OpenStore(spec).value();
    Conversation talk(client, store.Open({}, {.placement = placement, .recent_tokens = 16, .max_step_tokens = 64}).value(),
                      model, {}, 64);
    talk.Feed(RandomTokens(600, 5), 1);
    Tensor q = client.Allocate(1, shape.q_heads, shape.head_dim).value();
    Tensor out = client.Allocate(1, shape.q_heads, shape.head_dim).value();
    const AttendArgs args{.q = AsConst(q.view()), .out = out.view(), .scale = 0.125f};
    // Pages of slots are mapped by a background thread some blocks ahead. On a machine that is busy with something else it may
    // come late once; a fault that belongs to the steps would come in every round.
    long faults = 1;
    for (int round = 0; round < 5 && faults > 0; ++round) {
      faults = 0;
      for (int step = 0; step < 200; ++step) {
        const TokenId token = 1000 * round + step;
        const long before = PageFaults();
        const auto rows = talk.sequence().Reserve(1);
        bool good = rows.has_value();
        for (std::size_t layer = 0; layer < shape.layers && good; ++layer) {
          StoreElement(rows->Keys(layer).data, ElementType::kF16, 0, 1.0f);
          StoreElement(rows->Values(layer).data, ElementType::kF16, 0, 1.0f);
          good = talk.sequence().Attend(layer, args).has_value();
        }
        good = good && talk.sequence().Advance({&token, 1}).has_value();
        faults += PageFaults() - before;
        ASSERT_TRUE(good) << "step " << step;
      }
    }
    EXPECT_EQ(faults, 0) << (placement == Placement::kLocal ? "local" : "service");
  }
}

}  // namespace
}  // namespace kvant::testing
