// Rows read back by the daemon: the job's pieces, and what a hostile client may ask for.
#include <memory>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "daemon/serve/copy_job.h"
#include "protocol/wire.h"
#include "quantizers/attention/worker_team.h"
#include "tests/daemon/core_support.h"
#include "tests/daemon/rpc_client.h"
#include "tests/daemon/session_fixture.h"

namespace kvant::daemon {
namespace {

using ::testing::HasSubstr;

/// A sequence of 100 tokens, of which block 0 to 4 are read as codes, and memory for its rows.
class CopyJobTest : public ::testing::Test {
 protected:
  CopyJobTest() {
    held_ = TestSequence::Open(store_, {}, {.recent_tokens = 8, .max_step_tokens = 20, .client = "", .label = ""});
    for (int step = 0; step < 5; ++step) {
      std::optional<Result<Advanced>> answer;
      const auto all = Tokens(100);
      held_.Advance(std::span(all).subspan(held_.tokens.size(), 20), &answer);
      while (!answer) core_.encode.RunAt(0);
    }
    core_.encode.RunAll();
  }
  [[nodiscard]] quantizers::RowsRequest Request() {
    return {.layer = 1, .first = 10, .count = 80, .keys = {rows_.data(), ElementType::kF32, 80, 2, 16, 32, 16}};
  }
  /// Rows of the request that hold what they should, from the first on.
  [[nodiscard]] std::size_t Copied() const {
    const auto histories = Histories(held_.tokens);
    for (std::size_t i = 0; i < rows_.size(); ++i) {
      if (rows_[i] != RowValue(histories[10 + i / 32], 1, 0, i / 16 % 2, i % 16)) return i / 32;
    }
    return 80;
  }

  TestCore core_;
  std::shared_ptr<Store> store_ = core_.stores.Open(SmallSpec()).value().store;
  TestSequence held_;
  std::vector<float> rows_ = std::vector<float>(80 * 32, 99.0f);
  quantizers::WorkerTeam team_{0};
};

TEST_F(CopyJobTest, LetsOthersGoBetweenBlocks) {
  ASSERT_EQ(held_.sequence->switched_blocks(), 5u);
  CopyJob job({}, *held_.sequence, 0, Request());
  std::size_t last = 0;
  for (const std::size_t expected : {6u, 22u, 38u, 54u, 70u}) {
    bool asked = false;
    EXPECT_FALSE(job.Continue(team_, [&] { return std::exchange(asked, true); }));
    EXPECT_EQ(Copied(), expected) << "behind " << last;
    last = expected;
  }
  EXPECT_TRUE(job.Continue(team_, [] { return false; }));
  EXPECT_TRUE(job.outcome());
  EXPECT_EQ(Copied(), 80u);
}

TEST_F(CopyJobTest, EndsWhenCancelled) {
  CopyJob job({}, *held_.sequence, 0, Request());
  bool asked = false;
  EXPECT_FALSE(job.Continue(team_, [&] { return std::exchange(asked, true); }));
  job.Cancel();
  EXPECT_TRUE(job.Continue(team_, [] { return false; }));
  EXPECT_EQ(job.outcome().error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(Copied(), 6u);
}

TEST_F(CopyJobTest, KeepsItsBlocksAndKnowsThatTheSequenceMovedOn) {
  CopyJob job({}, *held_.sequence, 0, Request());
  EXPECT_TRUE(job.pinned().Unchanged(core_.core.sequences));
  ASSERT_TRUE(held_.sequence->Trim(0));
  EXPECT_FALSE(job.pinned().Unchanged(core_.core.sequences));
  EXPECT_EQ(core_.stores.Evict(BlockSelection{}, false).value().blocks, 0u) << "blocks that are being read";
  EXPECT_TRUE(job.Continue(team_, [] { return false; }));
  EXPECT_EQ(Copied(), 80u) << "nobody has written to the tail since";
}

class CopyRowsRpcTest : public SessionRpcTest {
 protected:
  static constexpr std::uint64_t kOut = 512 << 10;
  static constexpr std::uint32_t kTokens = 60;

  void SetUp() override {
    SessionRpcTest::SetUp();
    id_ = client_.OpenSequence(store_, arena_, tail_).getSequence();
  }
  /// Row numbers that tell position, and a call that makes `count` of them part of the sequence.
  capnp::RemotePromise<wire::Session::AdvanceResults> Advance(std::uint32_t first, std::uint32_t count) {
    const StoreSpec& spec = tail_.spec;
    for (std::uint32_t p = first; p < first + count; ++p) {
      for (std::size_t ring = 0; ring < std::size_t{spec.layers} * 2 * spec.kv_heads; ++ring) {
        float* row = client_.floats(tail_.offset) + (ring * tail_.capacity + p % tail_.capacity) * spec.head_dim;
        for (std::uint32_t i = 0; i < spec.head_dim; ++i) row[i] = Number(ring, p, i);
      }
    }
    return AdvanceRequest(client_, id_, std::vector<std::uint32_t>(count, 7)).send();
  }
  static float Number(std::size_t ring, std::uint32_t position, std::uint32_t i) {
    return static_cast<float>(ring * 100000 + position * 100 + i);
  }
  using Request = capnp::Request<wire::Session::CopyRowsParams, wire::Status>;
  Request Good() {
    auto request = client_.session().copyRowsRequest();
    request.setSequence(id_);
    request.setLayer(1);
    FillTensor(request.initKeys(), arena_, kOut, kTokens, tail_.spec.kv_heads, tail_.spec.head_dim);
    return request;
  }
  Result<void> Send(Request request) { return wire::ReadStatus(client_.Wait(request.send())); }

  std::uint64_t id_ = 0;
};

TEST_F(CopyRowsRpcTest, ComesBehindTheAdvancesBeforeIt) {
  client_.Wait(Advance(0, 30));
  auto advanced = Advance(30, 30);  // waits for a block
  ASSERT_TRUE(Send(Good()));
  client_.Wait(kj::mv(advanced));
  for (std::uint32_t p = 0; p < kTokens; ++p) {
    for (std::uint32_t head = 0; head < 2; ++head) {
      for (std::uint32_t i = 0; i < 16; ++i) {
        ASSERT_EQ(client_.floats(kOut)[(p * 2 + head) * 16 + i], Number(4 + head, p, i)) << "position " << p;
      }
    }
  }
}

TEST_F(CopyRowsRpcTest, HostileCallsAreRefusedAndNamed) {
  client_.Wait(Advance(0, 30));
  client_.Wait(Advance(30, 30));
  const auto refused = [&](ErrorCode code, const char* says, auto change) {
    Request request = Good();
    change(request);
    const auto outcome = Send(kj::mv(request));
    EXPECT_THAT(outcome ? "done" : outcome.error().message, HasSubstr(says));
    EXPECT_EQ(outcome ? ErrorCode::kInternal : outcome.error().code, code) << says;
  };
  refused(ErrorCode::kOutOfRange, "keys", [](Request& r) { r.getKeys().setOffset(1 << 20); });
  refused(ErrorCode::kOutOfRange, "keys", [](Request& r) { r.getKeys().setOffset(0); });
  refused(ErrorCode::kInvalidArgument, "keys", [](Request& r) { r.getKeys().setOffset(kOut + 2); });
  refused(ErrorCode::kNotFound, "arena 77", [](Request& r) { r.getKeys().setArena(77); });
  refused(ErrorCode::kOutOfRange, "keys", [](Request& r) { r.getKeys().setTokenStride(UINT64_MAX / 2); });
  refused(ErrorCode::kOutOfRange, "60 rows from position 1 on", [](Request& r) { r.setFirst(1); });
  refused(ErrorCode::kOutOfRange, "position 18446744073709551615", [](Request& r) { r.setFirst(UINT64_MAX); });
  refused(ErrorCode::kOutOfRange, "layer 4294967295", [](Request& r) { r.setLayer(UINT32_MAX); });
  refused(ErrorCode::kInvalidArgument, "keys", [](Request& r) { r.getKeys().setTokens(0); });
  refused(ErrorCode::kInvalidArgument, "[60, 1, 16]", [](Request& r) { r.getKeys().setHeads(1); });
  refused(ErrorCode::kInvalidArgument, "keys are [2, 2, 16], the rows are [1, 2, 16]", [&](Request& r) {
    FillTensor(r.initValues(), arena_, kOut, 1, 2, 16);
    r.getKeys().setTokens(2);
  });
  refused(ErrorCode::kInvalidArgument, "0 rows", [](Request& r) { r.disownKeys(); });
  refused(ErrorCode::kTailFull, "unnamed rows", [](Request& r) { r.setUnnamed(UINT32_MAX); });
  refused(ErrorCode::kStaleDaemon, "sequence", [](Request& r) { r.setSequence(123456789); });
  // An output over the sequence's own tail gives wrong numbers, nothing worse.
  Request over = Good();
  over.getKeys().setOffset(tail_.offset);
  EXPECT_TRUE(Send(kj::mv(over)));
  EXPECT_TRUE(Send(Good()));

  RpcClient other(*io_, daemon_->Connect().value());
  other.Hello();
  const std::uint32_t arena = other.MakeArena(1 << 20);
  auto request = other.session().copyRowsRequest();
  request.setSequence(id_);
  FillTensor(request.initKeys(), arena, kOut, 1, 2, 16);
  EXPECT_EQ(wire::ReadStatus(other.Wait(request.send())).error().code, ErrorCode::kPermissionDenied);
}

}  // namespace
}  // namespace kvant::daemon
