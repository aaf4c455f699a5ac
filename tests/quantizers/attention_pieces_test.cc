// Attention that is computed in pieces gives the bits of attention in one go, wherever it was cut.
#include <atomic>
#include <cstddef>
#include <vector>

#include <gtest/gtest.h>

#include "quantizers/attention/attention.h"
#include "quantizers/attention/worker_team.h"
#include "tests/quantizers/attention_case.h"

namespace kvant::quantizers {
namespace {

using test::AttentionCase;
using test::CaseShape;

const Registry& Codecs() {
  static const Registry registry = Registry::Builtin();
  return registry;
}

class AttentionPiecesTest : public ::testing::TestWithParam<std::size_t> {};  // helper threads

TEST_P(AttentionPiecesTest, GivesTheSameBits) {
  WorkerTeam team(GetParam());
  // Several runs of blocks and raw rows, so that there are units of every kind; and a prompt of several tiles.
  for (const CaseShape& shape :
       {CaseShape{.keys = "int8", .values = "int8", .kv_heads = 2, .group = 4, .sealed_blocks = 40},
        CaseShape{
            .keys = "int8", .values = "int8", .kv_heads = 2, .group = 4, .sealed_blocks = 4, .tail = 90, .queries = 80}}) {
    AttentionCase one(Codecs(), shape, 3);
    const std::vector<AttendItem> items = {one.item()};
    Attention(team).Run(items);
    const auto whole = one.OutputBytes();
    for (const std::size_t between : {1u, 2u, 7u}) {
      one.ClearOutput();
      Attention attention(team);
      attention.Begin(items);
      std::size_t pieces = 1;
      for (std::atomic<std::size_t> asked{0};; ++pieces) {
        ASSERT_LT(pieces, 10'000u) << "no progress";
        if (attention.Continue([&] { return ++asked % (between + 1) == 0; })) break;
      }
      // Helpers share the questions among themselves: how many pieces there are is chance then.
      if (GetParam() == 0 && between == 1) {
        EXPECT_GT(pieces, 2u) << "nothing was cut";
      }
      EXPECT_EQ(one.OutputBytes(), whole) << "a pause every " << between << " units";
    }
  }
}

TEST_P(AttentionPiecesTest, CanBeGivenUpAndBegunAnew) {
  WorkerTeam team(GetParam());
  const CaseShape shape{.keys = "f32", .values = "f32", .sealed_blocks = 40};
  AttentionCase one(Codecs(), shape, 4);
  AttentionCase other(Codecs(), shape, 5);
  const std::vector<AttendItem> items = {one.item()};
  const std::vector<AttendItem> others = {other.item()};
  Attention(team).Run(others);
  const auto expected = other.OutputBytes();
  other.ClearOutput();
  Attention attention(team);
  attention.Begin(items);
  EXPECT_FALSE(attention.Continue([] { return true; }));
  attention.Run(others);
  EXPECT_EQ(other.OutputBytes(), expected);
}

INSTANTIATE_TEST_SUITE_P(Helpers, AttentionPiecesTest, testing::Values(0, 1, 3));

}  // namespace
}  // namespace kvant::quantizers
