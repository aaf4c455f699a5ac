// In local placement a step allocates nothing; only where the schedule makes the client talk to the daemon, once when a block
// falls due and once when it switches, Cap'n Proto and the block table may.
#include "tests/support/counted_new.h"

#include <vector>

#include <gtest/gtest.h>

#include <kvant/client.h>

#include "quantizers/sequence/schedule.h"
#include "tests/support/conversation.h"
#include "tests/support/daemon_env.h"

namespace kvant::testing {
namespace {

constexpr std::uint32_t kBlockTokens = 64;
constexpr std::uint32_t kRecentTokens = 16;

TEST(AllocationTest, LocalStepsAllocateNothing) {
  DaemonEnv env;
  const FakeModel model{ModelShape{}};
  const ModelShape& shape = model.shape();
  Client client = env.Connect();
  Store store = client.OpenStore(SpecOf(shape, "turboquant_mse:bits=4", "turboquant_mse:bits=4", kBlockTokens)).value();
  Conversation talk(
      client, store.Open({}, {.placement = Placement::kLocal, .recent_tokens = kRecentTokens, .max_step_tokens = 64}).value(),
      model, {}, 64);
  talk.Feed(RandomTokens(600, 5), 1);
  Tensor q = client.Allocate(1, shape.q_heads, shape.head_dim).value();
  Tensor out = client.Allocate(1, shape.q_heads, shape.head_dim).value();
  const AttendArgs args{.q = AsConst(q.view()), .out = out.view(), .scale = 0.125f};
  std::size_t steps_without_daemon = 0;
  std::size_t allocations_with_daemon = 0;
  for (std::uint64_t length = 600; length < 600 + 3 * kBlockTokens; ++length) {
    const TokenId token = static_cast<TokenId>(length);
    const bool daemon = quantizers::ScheduledSeals(length + 1, kBlockTokens, kRecentTokens) !=
                        quantizers::ScheduledSeals(length, kBlockTokens, kRecentTokens);
    const std::size_t before = allocations_of_this_thread;
    const auto rows = talk.sequence().Reserve(1);
    bool good = rows.has_value();
    for (std::size_t layer = 0; layer < shape.layers && good; ++layer) {
      StoreElement(rows->Keys(layer).data, ElementType::kF16, 0, 1.0f);
      StoreElement(rows->Values(layer).data, ElementType::kF16, 0, 1.0f);
      good = talk.sequence().Attend(layer, args).has_value();
    }
    good = good && talk.sequence().Advance({&token, 1}).has_value();
    const std::size_t allocations = allocations_of_this_thread - before;
    ASSERT_TRUE(good) << "length " << length;
    if (daemon) {
      allocations_with_daemon += allocations;
      continue;
    }
    EXPECT_EQ(allocations, 0u) << "length " << length;
    ++steps_without_daemon;
  }
  EXPECT_EQ(steps_without_daemon, 3u * (kBlockTokens - 2));
  EXPECT_GT(allocations_with_daemon, 0u) << "the counter does not count";
}

}  // namespace
}  // namespace kvant::testing
