// States over the wire: what a hostile client may ask for, and how a long copy gives way and ends.
#include <memory>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "daemon/serve/state_job.h"
#include "protocol/wire.h"
#include "quantizers/attention/worker_team.h"
#include "tests/daemon/core_support.h"
#include "tests/daemon/rpc_client.h"
#include "tests/daemon/session_fixture.h"

namespace kvant::daemon {
namespace {

using ::testing::HasSubstr;

class StateJobTest : public ::testing::Test {
 protected:
  StateJobTest() {
    held_ = TestSequence::Open(store_, {}, {.recent_tokens = 8, .max_step_tokens = 20, .client = "", .label = ""});
    held_.Advance(Tokens(16));
  }
  [[nodiscard]] std::unique_ptr<StateJob> Job() {
    return std::make_unique<StateJob>(std::vector<std::shared_ptr<const Arena>>(), store_,
                                      held_.sequence->ReserveState(state_.size()).value(), state_.data());
  }

  TestCore core_;
  std::shared_ptr<Store> store_ = core_.stores.Open(SmallSpec()).value().store;
  TestSequence held_;
  std::vector<std::byte> state_ = std::vector<std::byte>(5 << 20, std::byte{3});
  quantizers::WorkerTeam team_{0};
};

TEST_F(StateJobTest, LetsOthersGoBetweenPieces) {
  auto job = Job();
  int turns = 0;
  for (bool ended = false; !ended; ++turns) {
    bool asked = false;
    ended = job->Continue(team_, [&] { return std::exchange(asked, true); });
  }
  EXPECT_EQ(turns, 5);
  ASSERT_TRUE(job->outcome());
  held_.sequence->KeepState(job->state().block, job->state().slot);
  const StateSlot& slot = *held_.sequence->NewestState()->slot;
  EXPECT_TRUE(protocol::VerifySlot(slot.slab()->slot_bytes(slot.slot().slot), 16));
}

TEST_F(StateJobTest, GivesItsRoomBackWhenCancelled) {
  const std::size_t before = core_.budget.metadata_bytes();
  {
    auto job = Job();
    EXPECT_FALSE(job->Continue(team_, [] { return true; }));
    job->Cancel();
    EXPECT_TRUE(job->Continue(team_, [] { return false; }));
    EXPECT_EQ(job->outcome().error().code, ErrorCode::kUnavailable);
    EXPECT_EQ(store_->Figures().states, 1u);
  }
  EXPECT_EQ(store_->Figures().states, 0u);
  EXPECT_FALSE(held_.sequence->NewestState());
  store_->pool().GiveBack(~std::size_t{0});
  EXPECT_EQ(core_.budget.metadata_bytes(), before);
  EXPECT_EQ(core_.budget.slab_bytes(), 0u);
}

class StateRpcTest : public SessionRpcTest {
 protected:
  void SetUp() override {
    SessionRpcTest::SetUp();
    id_ = client_.OpenSequence(store_, arena_, tail_).getSequence();
    const std::vector<std::uint32_t> tokens(16, 7);
    client_.Wait(AdvanceRequest(client_, id_, tokens).send());
  }
  using Request = capnp::Request<wire::Session::PutStateParams, wire::Status>;
  Request Good() {
    auto request = client_.session().putStateRequest();
    request.setSequence(id_);
    auto state = request.initState();
    state.setArena(arena_);
    state.setOffset(512 << 10);
    state.setBytes(1000);
    return request;
  }
  Result<void> Send(Request request) { return wire::ReadStatus(client_.Wait(request.send())); }

  std::uint64_t id_ = 0;
};

TEST_F(StateRpcTest, HostileCallsAreRefusedAndNamed) {
  const auto refused = [&](ErrorCode code, const char* says, auto change) {
    Request request = Good();
    change(request);
    const auto outcome = Send(kj::mv(request));
    EXPECT_THAT(outcome ? "done" : outcome.error().message, HasSubstr(says));
    EXPECT_EQ(outcome ? ErrorCode::kInternal : outcome.error().code, code) << says;
  };
  refused(ErrorCode::kOutOfRange, "put state", [](Request& r) { r.getState().setOffset(1 << 20); });
  refused(ErrorCode::kOutOfRange, "put state", [](Request& r) { r.getState().setOffset(0); });
  refused(ErrorCode::kOutOfRange, "put state", [](Request& r) { r.getState().setBytes(UINT64_MAX); });
  refused(ErrorCode::kNotFound, "arena 77", [](Request& r) { r.getState().setArena(77); });
  refused(ErrorCode::kInvalidArgument, "0 bytes", [](Request& r) { r.getState().setBytes(0); });
  refused(ErrorCode::kStaleDaemon, "sequence", [](Request& r) { r.setSequence(123456789); });
  RpcClient other(*io_, daemon_->Connect().value());
  other.Hello();
  auto get = other.session().getStateRequest();
  get.setSequence(id_);
  EXPECT_EQ(wire::ReadError(other.Wait(get.send()).getError()).code, ErrorCode::kPermissionDenied);
  EXPECT_TRUE(Send(Good()));
  EXPECT_TRUE(Send(Good())) << "it stays";
}

// Calls that are sent behind it wait for the copy, so none can take the sequence from under it.
TEST_F(StateRpcTest, ATrimBehindItComesAfterIt) {
  auto put = Good().send();
  auto trim = client_.session().trimRequest();
  trim.setSequence(id_);
  trim.setLength(3);
  auto trimmed = trim.send();
  auto get = client_.session().getStateRequest();
  get.setSequence(id_);
  auto got = get.send();
  EXPECT_TRUE(wire::ReadStatus(client_.Wait(kj::mv(put))));
  EXPECT_TRUE(client_.Wait(kj::mv(trimmed)).isOk());
  EXPECT_EQ(wire::ReadError(client_.Wait(kj::mv(got)).getError()).code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace kvant::daemon
