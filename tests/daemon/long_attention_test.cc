// Attention that takes long: who waits for it, who does not, and how it ends. The calls here would take minutes, so nothing
// hangs on how quick the machine is: whatever is answered at all was not waiting for them.
#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "daemon/serve/attend_job.h"
#include "protocol/segment_layout.h"
#include "protocol/wire.h"
#include "tests/daemon/core_support.h"
#include "tests/daemon/rpc_client.h"

namespace kvant::daemon {
namespace {

using std::chrono::steady_clock;
using ::testing::HasSubstr;

constexpr std::uint32_t kQHeads = 4;
constexpr std::uint32_t kDim = 16;
/// Queries of a call that takes a moment, and of one that takes minutes: each sees as many rows.
constexpr std::uint32_t kLong = 4096;
constexpr std::uint32_t kEndless = 150'000;

/// A client whose arena holds sequences with a tail, queries and outputs behind each other.
struct Engine {
  Engine(kj::AsyncIoContext& io, Daemon& daemon, std::uint32_t rows, std::uint32_t sequences = 1)
      : client(io, daemon.Connect().value()), queries(rows) {
    tail.capacity = (rows + 64) / 16 * 16 + 16;
    client.Hello();
    q = tail.offset + sequences * tail.bytes();
    out = q + q_bytes();
    arena = client.MakeArena(out + sequences * q_bytes() + 4096);
    store = client.OpenStore(tail.spec);
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    for (std::uint32_t i = 0; i < 4096; ++i) client.floats(q)[i] = normal(random);
    for (std::uint32_t s = 0; s < sequences; ++s) {
      RpcTail place = tail;
      place.offset += s * tail.bytes();
      auto request = client.session().openSequenceRequest();
      request.setStore(store);
      FillOptions(request.initOptions(), arena, place);
      request.getOptions().setMaxStepTokens(rows);
      auto response = client.Wait(request.send());
      if (!response.isOk()) ADD_FAILURE() << response.getError().getMessage().cStr();
      ids.push_back(response.getOk().getSequence());
    }
  }
  [[nodiscard]] std::uint64_t q_bytes() const { return std::uint64_t{queries} * kQHeads * kDim * sizeof(float); }

  /// Attention of all queries over as many new rows.
  auto Attend(std::size_t sequence) {
    auto request = client.session().attendRequest();
    auto item = request.initItems(1)[0];
    item.setSequence(ids[sequence]);
    item.setNewTokens(queries);
    FillTensor(item.initQ(), arena, q, queries, kQHeads, kDim);
    FillTensor(item.initOut(), arena, out + sequence * q_bytes(), queries, kQHeads, kDim);
    item.setScale(0.25f);
    return request.send();
  }
  auto Advance(std::size_t sequence, std::size_t count = 1) {
    const std::vector<std::uint32_t> tokens(count, 1);
    return AdvanceRequest(client, ids[sequence], tokens).send();
  }

  RpcClient client;
  RpcTail tail;
  std::uint32_t queries;
  std::uint64_t q = 0;
  std::uint64_t out = 0;
  std::uint32_t arena = 0;
  std::uint32_t store = 0;
  std::vector<std::uint64_t> ids;
};

class LongAttentionTest : public ::testing::Test {
 protected:
  void Ping(Engine& engine) { engine.client.Wait(engine.client.session().pingRequest().send()); }
  static Result<void> OutcomeOf(const capnp::Response<wire::Session::AttendResults>& response) {
    return wire::ReadStatus(response.getOutcomes()[0]);
  }

  std::unique_ptr<kj::AsyncIoContext> io_ = MakeLoop();
  std::unique_ptr<Daemon> daemon_ = Daemon::Start(RpcOptions()).value();
};

TEST_F(LongAttentionTest, GivesWhatPlainAttentionGives) {
  Engine engine(*io_, *daemon_, kLong);
  RpcClient& client = engine.client;
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  const std::size_t floats = engine.tail.bytes() / sizeof(float);
  for (std::size_t i = 0; i < floats; ++i) client.floats(engine.tail.offset)[i] = normal(random);
  const auto outcome = OutcomeOf(client.Wait(engine.Attend(0)));
  ASSERT_TRUE(outcome) << outcome.error().message;
  for (const std::uint32_t query : {0u, 1u, 777u, kLong - 1}) {
    for (std::uint32_t head = 0; head < kQHeads; ++head) {
      const float* q = client.floats(engine.q) + (query * kQHeads + head) * kDim;
      const std::uint32_t kv_head = head / 2;
      const auto row = [&](std::uint32_t side, std::uint32_t position) {
        return client.floats(engine.tail.offset) + ((side * 2 + kv_head) * engine.tail.capacity + position) * kDim;
      };
      double sum = 0;
      std::vector<double> expected(kDim);
      for (std::uint32_t p = 0; p <= query; ++p) {
        double logit = 0;
        for (std::uint32_t d = 0; d < kDim; ++d) logit += 0.25 * q[d] * row(0, p)[d];
        sum += std::exp(logit);
        for (std::uint32_t d = 0; d < kDim; ++d) expected[d] += std::exp(logit) * row(1, p)[d];
      }
      const float* out = client.floats(engine.out) + (query * kQHeads + head) * kDim;
      // Up to 4096 f32 terms whose weights add up to 1: relative error below 4096 * 2^-24.
      for (std::uint32_t d = 0; d < kDim; ++d) ASSERT_NEAR(out[d], expected[d] / sum, 1e-3) << "query " << query;
    }
  }
}

TEST_F(LongAttentionTest, RefusesNewRowsThatAreNotFinite) {
  Engine engine(*io_, *daemon_, kLong);
  engine.client.floats(engine.tail.offset)[5 * kDim + 3] = std::nanf("");
  const auto outcome = OutcomeOf(engine.client.Wait(engine.Attend(0)));
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().code, ErrorCode::kNotFinite);
  EXPECT_THAT(outcome.error().message, HasSubstr("the key row of layer 0, KV head 0, position 5"));
}

TEST_F(LongAttentionTest, RefusesAResultThatIsNotFinite) {
  Engine engine(*io_, *daemon_, kLong);
  engine.client.floats(engine.q)[(7 * kQHeads + 1) * kDim] = std::nanf("");
  const auto outcome = OutcomeOf(engine.client.Wait(engine.Attend(0)));
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().code, ErrorCode::kNotFinite);
  EXPECT_THAT(outcome.error().message, HasSubstr("the query of token 7, head 1"));
}

TEST_F(LongAttentionTest, OthersAreServedMeanwhile) {
  Engine heavy(*io_, *daemon_, kEndless);
  auto endless = heavy.Attend(0);
  Engine neighbour(*io_, *daemon_, kLong);  // connects, opens a store and a sequence
  for (int i = 0; i < 20; ++i) {
    Ping(heavy);
    Ping(neighbour);
  }
  neighbour.client.Wait(neighbour.Advance(0));
  // A long call of the neighbour's takes turns with the endless one.
  neighbour.queries -= 1;
  EXPECT_TRUE(OutcomeOf(neighbour.client.Wait(neighbour.Attend(0))));
  EXPECT_FALSE(endless.poll(io_->waitScope));
}

TEST_F(LongAttentionTest, OneSessionsCallsDoNotWaitInFrontOfAnothers) {
  Engine heavy(*io_, *daemon_, kEndless / 2, 3);
  auto first = heavy.Attend(0);
  auto second = heavy.Attend(1);
  auto third = heavy.Attend(2);
  Engine neighbour(*io_, *daemon_, kLong);
  EXPECT_TRUE(OutcomeOf(neighbour.client.Wait(neighbour.Attend(0))));
  EXPECT_FALSE(first.poll(io_->waitScope));
}

TEST_F(LongAttentionTest, LaterCallsOnItsSequenceWaitAndThoseOnOthersDoNot) {
  Engine engine(*io_, *daemon_, kEndless / 2, 2);
  auto endless = engine.Attend(0);
  auto behind = engine.Advance(0);
  const auto beside = engine.client.Wait(engine.Advance(1));
  EXPECT_TRUE(beside.getOutcomes()[0].getStatus().isOk());
  Ping(engine);
  EXPECT_FALSE(behind.poll(io_->waitScope));
  EXPECT_FALSE(endless.poll(io_->waitScope));
}

TEST_F(LongAttentionTest, CallsBehindAFiniteOneRunAfterIt) {
  Engine engine(*io_, *daemon_, kLong);
  auto attend = engine.Attend(0);
  auto advance = engine.Advance(0);
  EXPECT_EQ(engine.client.Wait(kj::mv(advance)).getOutcomes()[0].getLength(), 1u);
  EXPECT_TRUE(attend.poll(io_->waitScope)) << "answered after what came behind it";
  EXPECT_TRUE(OutcomeOf(engine.client.Wait(kj::mv(attend))));
}

TEST_F(LongAttentionTest, IsComputedAgainIfItsReadersSequenceIsTrimmedMeanwhile) {
  constexpr std::uint32_t kRows = 16'384;  // about a second: the trim comes before the end
  Engine owner(*io_, *daemon_, kRows);
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  for (std::size_t i = 0; i < owner.tail.bytes() / sizeof(float); ++i)
    owner.client.floats(owner.tail.offset)[i] = normal(random);
  EXPECT_TRUE(owner.client.Wait(owner.Advance(0)).getOutcomes()[0].getStatus().isOk());
  Engine reader(*io_, *daemon_, kRows);
  auto read = reader.client.session().readRequest();
  read.setStore(reader.store);
  read.setSource(owner.ids[0]);
  reader.ids[0] = reader.client.Wait(read.send()).getOk().getSequence();
  auto attend = reader.Attend(0);
  Ping(reader);  // the attend has begun
  auto trim = owner.client.session().trimRequest();
  trim.setSequence(owner.ids[0]);
  trim.setLength(0);
  EXPECT_TRUE(owner.client.Wait(trim.send()).isOk()) << "an owner does not wait for its readers";
  ASSERT_FALSE(attend.poll(io_->waitScope));
  const auto outcome = OutcomeOf(reader.client.Wait(kj::mv(attend)));
  ASSERT_TRUE(outcome) << outcome.error().message;
  // Query 0 stands at position 0 now, no more at 1: it sees the first row alone.
  const float* value = owner.client.floats(owner.tail.offset) + 2 * owner.tail.capacity * kDim;
  for (std::uint32_t d = 0; d < kDim; ++d) EXPECT_NEAR(reader.client.floats(reader.out)[d], value[d], 1e-5);
}

TEST_F(LongAttentionTest, EndsWithItsClient) {
  RpcClient watcher(*io_, daemon_->Connect().value());
  auto request = watcher.bootstrap().adminRequest();
  request.initHello().setProtocolVersion(wire::kProtocolVersion);
  request.getHello().setSegmentLayoutVersion(protocol::kSegmentLayoutVersion);
  auto admin = watcher.Wait(request.send()).getOk().getAdmin();
  const auto figure = [&](std::string_view name) {
    const auto response = watcher.Wait(admin.statsRequest().send());
    const auto stats = response.getStats();
    for (unsigned i = 0; i < stats.getFigures().size(); ++i) {
      if (stats.getFigures()[i].getName().cStr() == name) return stats.getValues()[i];
    }
    ADD_FAILURE() << "no figure " << name;
    return std::uint64_t{0};
  };
  auto gone = std::make_unique<Engine>(*io_, *daemon_, kEndless);
  gone->client.Wait(gone->Advance(0, 64));
  const std::uint64_t held_by_sequence = figure("leases");
  {
    [[maybe_unused]] const auto endless = gone->Attend(0);
    Ping(*gone);
  }
  ASSERT_EQ(figure("leases"), held_by_sequence + 1) << "the job holds the last of the blocks that it reads";
  gone.reset();
  const auto limit = steady_clock::now() + std::chrono::seconds(20);
  while (figure("leases") != 0) ASSERT_LT(steady_clock::now(), limit) << "the job goes on without its client";
  EXPECT_EQ(figure("sequences"), 0u);
}

TEST_F(LongAttentionTest, IsRefusedWhenADrainTakesTooLong) {
  auto options = RpcOptions();
  options.drain_timeout = std::chrono::milliseconds(100);
  daemon_ = Daemon::Start(options).value();
  Engine engine(*io_, *daemon_, kEndless);
  auto endless = engine.Attend(0);
  Ping(engine);
  daemon_->Drain();
  const auto outcome = OutcomeOf(engine.client.Wait(kj::mv(endless)));
  ASSERT_FALSE(outcome);
  EXPECT_EQ(outcome.error().code, ErrorCode::kUnavailable);
  EXPECT_TRUE(daemon_->Wait());
}

TEST_F(LongAttentionTest, IsAnsweredWhenADrainLeavesItTime) {
  auto options = RpcOptions();
  options.drain_timeout = std::chrono::minutes(10);
  daemon_ = Daemon::Start(options).value();
  Engine engine(*io_, *daemon_, kLong);
  auto attend = engine.Attend(0);
  Ping(engine);
  daemon_->Drain();
  EXPECT_TRUE(OutcomeOf(engine.client.Wait(kj::mv(attend))));
  EXPECT_TRUE(daemon_->Wait());
}

TEST_F(LongAttentionTest, DoesNotHoldUpTheEndOfTheDaemon) {
  Engine engine(*io_, *daemon_, kEndless);
  [[maybe_unused]] const auto endless = engine.Attend(0);
  Ping(engine);
  daemon_->Stop();
  EXPECT_TRUE(daemon_->Wait());
}

TEST(PinnedSequenceTest, SeesWhetherRawRowsMayHaveBeenRewritten) {
  TestCore core;
  const auto store = core.stores.Open(SmallSpec()).value().store;
  const SequenceConfig config{.recent_tokens = 8, .max_step_tokens = 24, .client = "test", .label = ""};
  std::optional<TestSequence> sequence(TestSequence::Open(store, {}, config));
  sequence->Advance(Tokens(10));
  core.encode.RunAll();
  const PinnedSequence before(*sequence->sequence);
  sequence->Advance(Tokens(4));
  core.encode.RunAll();
  EXPECT_TRUE(before.Unchanged(core.core.sequences)) << "rows behind the length are no one's yet";
  sequence->Advance(Tokens(20));
  core.encode.RunAll();
  ASSERT_GT(sequence->sequence->switched_blocks(), 0u);
  EXPECT_FALSE(before.Unchanged(core.core.sequences)) << "the rows of a block that has switched are free";
  const PinnedSequence later(*sequence->sequence);
  EXPECT_TRUE(later.Unchanged(core.core.sequences));
  ASSERT_TRUE(sequence->sequence->Trim(sequence->sequence->length() - 1));
  EXPECT_FALSE(later.Unchanged(core.core.sequences));
  const PinnedSequence last(*sequence->sequence);
  sequence.reset();
  EXPECT_FALSE(last.Unchanged(core.core.sequences));
}

TEST(PinnedSequenceTest, KeepsItsBlocksFromEviction) {
  TestCore core;
  const auto store = core.stores.Open(SmallSpec()).value().store;
  const SequenceConfig config{.recent_tokens = 8, .max_step_tokens = 24, .client = "test", .label = ""};
  std::optional<TestSequence> sequence(TestSequence::Open(store, {}, config));
  for (int i = 0; i < 3; ++i) {
    sequence->Advance(Tokens(24));
    core.encode.RunAll();
  }
  ASSERT_GT(sequence->sequence->switched_blocks(), 1u);
  const std::uint64_t switched = sequence->sequence->switched_blocks();
  std::optional<PinnedSequence> pinned(std::in_place, *sequence->sequence);
  sequence.reset();
  store->EvictAll();
  EXPECT_EQ(store->Figures().blocks, switched);
  pinned.reset();
  store->EvictAll();
  EXPECT_EQ(store->Figures().blocks, 0u);
}

}  // namespace
}  // namespace kvant::daemon
