// Attention over the wire, against plain attention in double.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "protocol/wire.h"
#include "tests/daemon/session_fixture.h"

namespace kvant::daemon {
namespace {

using ::testing::HasSubstr;

TEST_F(SessionRpcTest, AttentionEqualsPlainAttentionWhileBlocksSeal) {
  const std::uint64_t id = client_.OpenSequence(store_, arena_, tail_).getSequence();
  Reference reference(tail_.spec, 1);
  for (const std::size_t length : {1u, 5u, 16u, 27u, 28u, 40u, 70u, 100u}) {
    Feed(id, reference, length, tail_);
    ExpectAttention(id, reference, length, 1, 0);
  }
  // Block k switches at 16 (k + 1) + 8 recent + 4 slack tokens.
  EXPECT_EQ(switched_, (100u - 12) / 16);
}

TEST_F(SessionRpcTest, NewRowsAreSeenCausally) {
  const std::uint64_t id = client_.OpenSequence(store_, arena_, tail_).getSequence();
  Reference reference(tail_.spec, 2);
  Feed(id, reference, 50, tail_);
  for (int i = 0; i < 7; ++i) reference.Append();
  WriteRows(reference, 50, tail_);
  ExpectAttention(id, reference, 50, 7, 7);
  ExpectAttention(id, reference, 50, 3, 7);
}

// Codes differ from raw rows here, so a call that overtook an encoding would show in the numbers.
TEST_F(SessionRpcTest, CallsThatAreNotWaitedForGiveTheSameBits) {
  constexpr std::uint32_t kTokens = 100;
  std::vector<float> outputs[2];
  for (const bool wait : {true, false}) {
    RpcTail tail;
    tail.capacity = 128;
    tail.spec = RpcSpec(wait ? "waited" : "pipelined");  // two stores: nothing is found already sealed
    tail.spec.plan.keys = "int8";
    tail.spec.plan.values = "int8";
    const std::uint64_t id = client_.OpenSequence(client_.OpenStore(tail.spec), arena_, tail).getSequence();
    Reference reference(tail.spec, 12);
    for (std::uint32_t p = 0; p < kTokens; ++p) reference.Append();
    WriteRows(reference, 0, tail);
    std::fill_n(client_.floats(kQ), kQHeads * 16, 0.75f);
    std::vector<kj::Promise<void>> answers;
    const auto send = [&](auto&& request) {
      auto answer = request.send().ignoreResult();
      if (wait) {
        answer.wait(client_.wait_scope());
      } else {
        answers.push_back(kj::mv(answer));
      }
    };
    for (std::uint32_t p = 0; p < kTokens; ++p) {
      const std::vector<std::uint32_t> token{Token(p)};
      send(AdvanceRequest(client_, id, token));
      auto attend = client_.session().attendRequest();
      FillAttend(attend.initItems(1)[0], id, 1, 1, 0);
      attend.getItems()[0].getOut().setOffset(kOut + std::uint64_t{p} * kQHeads * 16 * 4);
      send(attend);
    }
    for (auto& answer : answers) answer.wait(client_.wait_scope());
    outputs[wait ? 0 : 1].assign(client_.floats(kOut), client_.floats(kOut) + kTokens * kQHeads * 16);
    std::fill_n(client_.floats(kOut), kTokens * kQHeads * 16, 0.0f);
    auto close = client_.session().closeRequest();
    close.setSequence(id);
    client_.Wait(close.send());
  }
  EXPECT_EQ(std::memcmp(outputs[0].data(), outputs[1].data(), outputs[0].size() * sizeof(float)), 0);
  EXPECT_NE(outputs[0][0], 0.0f);
}

TEST_F(SessionRpcTest, OneBatchForManySequencesKeepsOutcomesApart) {
  RpcTail second = tail_;
  second.offset += tail_.bytes();
  const std::uint64_t a = client_.OpenSequence(store_, arena_, tail_).getSequence();
  const std::uint64_t b = client_.OpenSequence(store_, arena_, second).getSequence();
  Reference reference(tail_.spec, 7);
  Feed(a, reference, 20, tail_);
  auto request = client_.session().advanceRequest();
  auto items = request.initItems(3);
  items[0].setSequence(a);
  items[0].initTokens(1).set(0, 1);
  items[1].setSequence(424242);
  items[2].setSequence(b);
  items[2].initTokens(2);
  const auto response = client_.Wait(request.send());
  EXPECT_EQ(response.getOutcomes()[0].getLength(), 21u);
  EXPECT_EQ(wire::ReadStatus(response.getOutcomes()[1].getStatus()).error().code, ErrorCode::kStaleDaemon);
  EXPECT_EQ(response.getOutcomes()[2].getLength(), 2u);

  auto attend = client_.session().attendRequest();
  auto list = attend.initItems(3);
  FillAttend(list[0], a, 0, 1, 0);
  FillAttend(list[1], a, 9, 1, 0);
  FillAttend(list[2], b, 1, 1, 0);
  const auto attended = client_.Wait(attend.send());
  EXPECT_TRUE(attended.getOutcomes()[0].isOk());
  EXPECT_EQ(wire::ReadStatus(attended.getOutcomes()[1]).error().code, ErrorCode::kOutOfRange);
  EXPECT_TRUE(attended.getOutcomes()[2].isOk());
}

TEST_F(SessionRpcTest, TooLargeABatchIsRefused) {
  auto request = client_.session().attendRequest();
  request.initItems(wire::MAX_BATCH + 1);
  bool threw = false;
  try {
    client_.Wait(request.send());
  } catch (const kj::Exception& exception) {
    threw = true;
    EXPECT_EQ(wire::FromException(exception, "attend", "here").code, ErrorCode::kInternal);
  }
  EXPECT_TRUE(threw);
}

TEST_F(SessionRpcTest, RowsThatAreNotFiniteAreRefused) {
  const std::uint64_t id = client_.OpenSequence(store_, arena_, tail_).getSequence();
  Reference reference(tail_.spec, 9);
  Feed(id, reference, 3, tail_);
  reference.Append();
  WriteRows(reference, 3, tail_);
  // Layer 1, values, head 1, the new row.
  const std::size_t ring = (1 * 2 + 1) * 2 + 1;
  float& number = client_.floats(tail_.offset)[(ring * tail_.capacity + 3) * 16 + 5];
  const float kept = std::exchange(number, std::numeric_limits<float>::quiet_NaN());
  auto request = client_.session().attendRequest();
  FillAttend(request.initItems(1)[0], id, 1, 1, 1);
  auto refused = Attend(request);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::kNotFinite);
  EXPECT_THAT(refused.error().message, HasSubstr("the value row of layer 1, KV head 1, position 3"));
  number = kept;
  ExpectAttention(id, reference, 3, 1, 1);
}

TEST_F(SessionRpcTest, RowsBehindTheLengthCountAsTheSequencesOwn) {
  const std::uint64_t id = client_.OpenSequence(store_, arena_, tail_).getSequence();
  Reference reference(tail_.spec, 4);
  Feed(id, reference, 40, tail_);
  for (int i = 0; i < 10; ++i) reference.Append();
  WriteRows(reference, 40, tail_);
  const auto attend = [&](std::uint64_t sequence, std::uint32_t unnamed, std::uint32_t new_tokens) {
    auto request = client_.session().attendRequest();
    auto item = request.initItems(1)[0];
    FillAttend(item, sequence, 1, 1, new_tokens);
    item.setUnnamed(unnamed);
    return Attend(request);
  };
  std::fill_n(client_.floats(kQ), kQHeads * tail_.spec.head_dim, 0.5f);
  for (const std::uint32_t new_tokens : {0u, 1u}) {
    ASSERT_TRUE(attend(id, 10 - new_tokens, new_tokens));
    double lse = 0;
    const auto expected = reference.Attend(client_.floats(kQ), 0, 1, 50, 0.25, &lse);
    EXPECT_NEAR(client_.floats(kLse)[0], lse, 1e-4);
    for (std::size_t i = 0; i < expected.size(); ++i) ASSERT_NEAR(client_.floats(kOut)[i], expected[i], 1e-4);
  }
  ASSERT_EQ(switched_, 1u) << "24 of 64 rows are taken";
  EXPECT_TRUE(attend(id, 40, 0));
  const auto beyond = attend(id, 41, 0);
  EXPECT_EQ(beyond.error().code, ErrorCode::kTailFull);
  EXPECT_THAT(beyond.error().message, HasSubstr("41 unnamed rows, its tail has 40 free ones"));
  EXPECT_EQ(attend(id, UINT32_MAX, 0).error().code, ErrorCode::kTailFull);
  EXPECT_EQ(attend(id, 40, 1).error().code, ErrorCode::kTailFull);
  auto read = client_.session().readRequest();
  read.setStore(store_);
  read.setSource(id);
  const auto reader = client_.Wait(read.send());
  EXPECT_EQ(attend(reader.getOk().getSequence(), 1, 0).error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace kvant::daemon
