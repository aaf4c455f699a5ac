// Blocks that were cut down to their first planes, through the client library.
#include <chrono>
#include <span>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <kvant/admin.h>
#include <kvant/client.h>

#include "tests/support/conversation.h"
#include "tests/support/daemon_env.h"

namespace kvant::testing {
namespace {

constexpr std::uint32_t kMaxStep = 96;
constexpr std::uint32_t kBlockTokens = 128;

SequenceOptions Options(Placement placement) {
  return {.placement = placement, .recent_tokens = 16, .max_step_tokens = kMaxStep, .label = "test"};
}

TEST(DemoteTest, BothPlacementsReadBlocksOfDifferentNumbersOfPlanes) {
  DaemonEnv env;
  const FakeModel model{ModelShape{}};
  Client client = env.Connect();
  const StoreSpec spec =
      SpecOf(model.shape(), "turboquant_mse:bits=8,planes=1", "turboquant_mse:bits=4,planes=1", kBlockTokens);
  Store store = client.OpenStore(spec).value();
  Admin admin = Admin::Connect(env.socket()).value();
  const std::vector<TokenId> tokens = RandomTokens(500, 8);
  const std::span<const TokenId> prefix = std::span(tokens).first(400), rest = std::span(tokens).subspan(400);
  {
    Conversation talk(client, store.Open({}, Options(Placement::kService)).value(), model, {}, kMaxStep);
    talk.Feed(prefix, kMaxStep, WriteMode::kInPlace);
    EXPECT_EQ(admin.Demote({.store = spec.name, .planes = 2}).value().blocks, 0U) << "its blocks are held";
  }
  const auto continued = [&](Placement placement) {
    Sequence sequence = store.Open(prefix, Options(placement)).value();
    const auto held = static_cast<std::size_t>(sequence.length());
    EXPECT_EQ(held, 3 * kBlockTokens);
    Conversation talk(client, std::move(sequence), model, {prefix.begin(), prefix.begin() + static_cast<std::ptrdiff_t>(held)},
                      kMaxStep);
    talk.Feed(prefix.subspan(held), kMaxStep, WriteMode::kInPlace);
    return talk.Feed(rest, 30, WriteMode::kInPlace);
  };
  const Conversation exact(client, store.Open({}, Options(Placement::kService)).value(), model, tokens, kMaxStep);
  const std::vector<float> expected = exact.Expected(400, 500);
  const std::vector<float> whole = continued(Placement::kService);
  EXPECT_EQ(whole, continued(Placement::kLocal));

  const auto figure = [&](const char* name) { return admin.Stores().value().front().figures.Find(name).value_or(0); };
  const auto wait_until_nobody_holds_blocks = [&] {  // sequences are closed on another connection
    for (int i = 0; figure("leased_blocks") != 0 && i < 2000; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
  };
  wait_until_nobody_holds_blocks();
  const auto before = figure("compressed_bytes");
  EXPECT_EQ(admin.Demote({.store = spec.name, .planes = 2, .max_blocks = 2, .dry_run = true}).value().blocks, 2U);
  EXPECT_EQ(figure("compressed_bytes"), before);
  const DemoteReport report = admin.Demote({.store = spec.name, .planes = 2, .max_blocks = 2}).value();
  EXPECT_EQ(report.blocks, 2U);
  EXPECT_GT(report.bytes, 0U);
  EXPECT_EQ(report.corrupt, 0U);
  // Of two blocks six of eight planes of keys are gone and two of four of values.
  const ModelShape& shape = model.shape();
  EXPECT_EQ(before - figure("compressed_bytes"),
            2 * (6 + 2) * shape.layers * shape.kv_heads * kBlockTokens * shape.head_dim / 8);
  const std::vector<float> service = continued(Placement::kService);
  EXPECT_EQ(service, continued(Placement::kLocal));
  EXPECT_GT(MaxDifference(service, expected), 2 * MaxDifference(whole, expected)) << "nothing was lost";
  EXPECT_LT(MaxDifference(service, expected), 1.0) << "what is left is no code";

  EXPECT_EQ(admin.Demote({.store = spec.name, .planes = 0}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(admin.Demote({.store = "none", .planes = 1}).error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace kvant::testing
