// What the daemon does between a request's message and the answer's: after the first call it allocates nothing.
#include "tests/support/counted_new.h"

#include <memory>
#include <vector>

#include <capnp/message.h>
#include <gtest/gtest.h>

#include "daemon/serve/call_order.h"
#include "daemon/serve/long_attention.h"
#include "daemon/serve/session_steps.h"
#include "quantizers/attention/worker_team.h"
#include "tests/daemon/core_support.h"
#include "tests/daemon/rpc_client.h"

namespace kvant::daemon {
namespace {

using kvant::testing::allocations_of_this_thread;

constexpr std::uint32_t kQHeads = 4;
constexpr std::uint64_t kTail = 4096;
constexpr std::uint64_t kQ = 256 * 1024;
constexpr std::uint64_t kOut = 300 * 1024;

class StepAllocationTest : public ::testing::Test {
 protected:
  StepAllocationTest() {
    arena_ = session_.CreateArena(512 * 1024).value();
    Session::NumberedStore store;
    Session::OpenStore(shared_session_, SmallSpec(), {},
                       [&](Result<Session::NumberedStore> opened) { store = opened.value(); });
    core_.encode.RunAll();
    sequence_ = session_
                    .Open(store.number, {},
                          {.arena = arena_.number,
                           .tail = {.offset = kTail, .type = ElementType::kF32, .capacity_tokens = 64},
                           .recent_tokens = 8,
                           .max_step_tokens = 16,
                           .label = {}})
                    .value();
    const std::vector<std::uint32_t> tokens = {1, 2, 3};
    sequence_->Advance(tokens, SealWait::kSwitched, [](const Result<Advanced>& advanced) { EXPECT_TRUE(advanced); });
  }
  void Fill(wire::AttendItem::Builder item) const {
    item.setSequence(sequence_->id());
    item.setLayer(1);
    item.setNewTokens(1);
    item.setScale(0.25f);
    FillTensor(item.initQ(), arena_.number, kQ, 1, kQHeads, 16);
    FillTensor(item.initOut(), arena_.number, kOut, 1, kQHeads, 16);
  }
  /// Runs `call` twice, the second time counted.
  template <typename Call>
  static void ExpectNoAllocations(Call call) {
    for (const int round : {0, 1}) {
      const std::size_t before = allocations_of_this_thread;
      const auto outcomes = call();
      const std::size_t after = allocations_of_this_thread;
      ASSERT_EQ(outcomes.size(), 2u);
      for (const auto& outcome : outcomes) EXPECT_TRUE(outcome) << outcome.error().message;
      if (round == 0) {
        EXPECT_GT(after, before) << "the counter does not count";
      } else {
        EXPECT_EQ(after, before);
      }
    }
  }

  TestCore core_;
  quantizers::WorkerTeam team_{0};
  PrefixChecks prefix_checks_{core_.encode};
  AttendService attend_{team_};
  StoreOpenings openings_{core_.stores, core_.codecs, core_.encode};
  Budget arena_budget_{std::size_t{1} << 30};
  LongAttention long_attention_{1, 0, [](const std::function<void()>&) {}};
  Services services_{.core = core_.core,
                     .stores = core_.stores,
                     .openings = openings_,
                     .prefix_checks = prefix_checks_,
                     .attend = attend_,
                     .long_attention = long_attention_,
                     .arena_budget = arena_budget_,
                     .arena_limit_bytes = 1 << 30,
                     .counters = {},
                     .sessions = {},
                     .waiting_calls = {},
                     .draining = false};
  std::shared_ptr<Session> shared_session_ = std::make_shared<Session>(
      services_, "test", std::make_shared<ArenaAllowance>(std::size_t{1} << 30), nullptr, core_.stores.FindTenant("test"));
  Session& session_ = *shared_session_;
  Session::MadeArena arena_;
  Sequence* sequence_ = nullptr;
};

TEST_F(StepAllocationTest, Attend) {
  capnp::MallocMessageBuilder message;
  auto items = message.initRoot<wire::Session::AttendParams>().initItems(2);
  for (auto item : items) Fill(item);
  ExpectNoAllocations([&] { return AttendItems(session_, items.asReader()); });
}

TEST_F(StepAllocationTest, ACallThatNeedNotWaitIsNotKept) {
  const CallOrder order([this](std::uint64_t id) { return id == sequence_->id() ? sequence_ : nullptr; });
  const std::uint64_t ids[] = {sequence_->id(), sequence_->id()};
  const std::size_t before = allocations_of_this_thread;
  EXPECT_TRUE(order.Free(ids, CallNeeds::kSettled));
  EXPECT_EQ(allocations_of_this_thread, before);
}

}  // namespace
}  // namespace kvant::daemon
