#include "quantizers/attention/attention.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quantizers/attention/worker_team.h"
#include "tests/quantizers/attention_case.h"
#include "tests/quantizers/conformance.h"

namespace kvant::quantizers {
namespace {

using test::AttentionCase;
using test::CaseShape;

void ExpectMatchesReference(const CaseShape& shape, std::uint64_t seed) {
  test::ExpectMatchesReference(Registry::Builtin(), shape, seed);
}

class AttentionGridTest : public testing::TestWithParam<std::string> {};

/// A codec on the sides that it offers, f16 on the other, with its example's artifact; nothing if it declines the head size.
std::optional<CaseShape> ShapeOf(const std::string& spec, std::size_t head_dim) {
  const Registry registry = Registry::Builtin();
  CaseShape shape{.head_dim = head_dim, .rope = {RopePairing::kHalfSplit, 10000.0, 0}};
  const test::ConformanceCase codec(registry, spec, head_dim, shape.rope);
  if (!codec.supported()) return std::nullopt;
  shape.keys = codec.keys() != nullptr ? spec : "f16";
  shape.values = codec.values() != nullptr ? spec : "f16";
  if (codec.keys() != nullptr && codec.keys()->pre_rope()) shape.key_stage = KeyStage::kBeforeRope;
  shape.artifact = test::ExampleArtifact(registry, spec, static_cast<std::uint32_t>(shape.kv_heads), head_dim);
  return shape;
}

TEST_P(AttentionGridTest, MatchesBruteForceOverShapes) {
  const std::size_t groups[] = {1, 4, 8};
  const std::size_t tokens[] = {1, 5, 70};
  std::uint64_t seed = 1;
  for (const std::size_t group : groups) {
    for (const std::size_t queries : tokens) {
      std::optional<CaseShape> offered = ShapeOf(GetParam(), 64);
      if (!offered) GTEST_SKIP() << GetParam() << " does not offer head_dim 64";
      CaseShape& shape = *offered;
      shape.group = group;
      shape.tail = 75;
      shape.queries = queries;
      ExpectMatchesReference(shape, seed++);
      shape.window = 130;
      shape.softcap = 2.0f;
      shape.sink_logits = true;
      shape.raw_pieces = 3;
      shape.head_major = true;
      ExpectMatchesReference(shape, seed++);
    }
  }
}

TEST_P(AttentionGridTest, OddHeadSizesAndElementTypes) {
  std::uint64_t seed = 100;
  for (const std::size_t dim : {24, 72, 80, 256}) {
    std::optional<CaseShape> offered = ShapeOf(GetParam(), dim);
    if (!offered) continue;
    CaseShape& shape = *offered;
    shape.group = 3;
    shape.tail = 20;
    shape.queries = 2;
    shape.raw_type = ElementType::kF16;
    shape.query_type = ElementType::kBF16;
    shape.out_type = ElementType::kF16;
    ExpectMatchesReference(shape, seed++);
    shape.raw_type = ElementType::kBF16;
    shape.query_type = ElementType::kF16;
    shape.out_type = ElementType::kBF16;
    ExpectMatchesReference(shape, seed++);
  }
}

INSTANTIATE_TEST_SUITE_P(Codecs, AttentionGridTest, testing::ValuesIn(test::CoveringSpecs(Registry::Builtin())),
                         [](const auto& codec) {
                           std::string name = codec.param;
                           for (char& c : name) c = c == ':' || c == '=' || c == ',' ? '_' : c;
                           return name;
                         });

TEST(AttentionTest, KeysAndValuesChooseTheirCodecsIndependently) {
  const auto specs = test::CoveringSpecs(Registry::Builtin());
  std::uint64_t seed = 200;
  for (const std::string& keys : {specs[0], specs[3], specs[4]}) {
    for (const std::string& values : {specs[1], specs[3], specs[4]}) {
      ExpectMatchesReference({.keys = keys, .values = values, .head_dim = 40, .group = 2, .queries = 3}, seed++);
    }
  }
}

TEST(AttentionTest, RawRowsTakePrecedenceOverCodes) {
  CaseShape shape{.keys = "bf16", .values = "bf16", .group = 2, .sinks = 16, .raw_overlap = 200, .tail = 10, .queries = 3};
  ExpectMatchesReference(shape, 7);
  shape.window = 64;  // sinks out of sight
  ExpectMatchesReference(shape, 8);
  shape.sealed_blocks = 0;
  shape.raw_overlap = 0;
  shape.sinks = 0;
  ExpectMatchesReference(shape, 9);
  shape.tail = 600;  // more raw rows than one chunk
  shape.queries = 600;
  shape.window = 0;
  ExpectMatchesReference(shape, 10);
}

TEST(AttentionTest, SharpAndFlatSoftmax) {
  for (const float spread : {0.0f, 0.01f, 8.0f, 40.0f}) {
    ExpectMatchesReference({.spread = spread}, 11);
  }
}

TEST(AttentionTest, ManyHeadsOfOneGroup) { ExpectMatchesReference({.kv_heads = 1, .group = 71, .queries = 2}, 12); }

TEST(AttentionTest, SameBitsForAnyNumberOfThreads) {
  const Registry registry = Registry::Builtin();
  // Long enough for several runs per head.
  CaseShape shape{.keys = "f16", .values = "f16", .group = 2, .sealed_blocks = 80, .tail = 70, .queries = 3};
  shape.head_dim = 16;
  AttentionCase problem(registry, shape, 13);
  std::vector<std::vector<std::byte>> answers;
  for (const std::size_t helpers : {0, 1, 4}) {
    WorkerTeam team(helpers);
    Attention attention(team);
    for (int repeat = 0; repeat < 3; ++repeat) {
      problem.ClearOutput();
      attention.Run({&problem.item(), 1});
      answers.push_back(problem.OutputBytes());
    }
  }
  for (const auto& answer : answers) EXPECT_EQ(answer, answers[0]);
  ExpectMatchesReference(shape, 13);
}

TEST(AttentionTest, BatchGivesTheSameBitsAsOneByOne) {
  const Registry registry = Registry::Builtin();
  AttentionCase a(registry, {.keys = "f16", .values = "bf16", .group = 4, .tail = 9, .queries = 5}, 14);
  AttentionCase b(registry,
                  {.keys = "bf16", .values = "f32", .head_dim = 128, .kv_heads = 3, .group = 2, .tail = 33, .queries = 1}, 15);
  WorkerTeam team(2);
  Attention attention(team);
  attention.Run({&a.item(), 1});
  attention.Run({&b.item(), 1});
  const auto alone_a = a.OutputBytes();
  const auto alone_b = b.OutputBytes();
  a.ClearOutput();
  b.ClearOutput();
  const AttendItem both[] = {a.item(), b.item()};
  attention.Run(both);
  EXPECT_EQ(a.OutputBytes(), alone_a);
  EXPECT_EQ(b.OutputBytes(), alone_b);
}

TEST(AttentionTest, QueryWithNaNGivesNaNAndLeavesTheOthersAlone) {
  const Registry registry = Registry::Builtin();
  AttentionCase problem(registry, {.group = 4, .queries = 2}, 16);
  WorkerTeam alone(0);
  Attention attention(alone);
  attention.Run({&problem.item(), 1});
  const auto good = problem.Output(1, 2);
  auto* q = static_cast<float*>(const_cast<void*>(problem.item().query.q.data));
  q[5] = std::numeric_limits<float>::quiet_NaN();
  attention.Run({&problem.item(), 1});
  for (const double x : problem.Output(0, 0)) EXPECT_TRUE(std::isnan(x));
  EXPECT_TRUE(std::isnan(problem.Lse(0, 0)));
  EXPECT_EQ(problem.Output(1, 2), good);
}

TEST(AttentionTest, NoQueriesIsNoWork) {
  const Registry registry = Registry::Builtin();
  AttentionCase problem(registry, {}, 17);
  problem.ClearOutput();
  const auto before = problem.OutputBytes();
  problem.item().query.q.tokens = 0;
  problem.item().query.out.tokens = 0;
  ASSERT_TRUE(CheckItem(problem.item()));
  WorkerTeam alone(0);
  Attention(alone).Run({&problem.item(), 1});
  EXPECT_EQ(problem.OutputBytes(), before);
}

/// Expects CheckItem to fail with a message that names `field`.
void ExpectRefused(const AttendItem& item, const std::string& field) {
  const auto checked = CheckItem(item);
  ASSERT_FALSE(checked) << field;
  EXPECT_NE(checked.error().message.find(field), std::string::npos) << checked.error().message;
}

TEST(CheckItemTest, NamesWhatDoesNotFit) {
  const Registry registry = Registry::Builtin();
  AttentionCase problem(registry, {.kv_heads = 2, .group = 2, .queries = 3}, 18);
  const AttendItem good = problem.item();
  ASSERT_TRUE(CheckItem(good));
  const auto refused = [&](auto change, const std::string& field) {
    AttendItem item = good;
    change(item);
    ExpectRefused(item, field);
  };
  refused([](AttendItem& i) { i.cache.plan = nullptr; }, "plan");
  refused([](AttendItem& i) { i.cache.layer = 1; }, "layer 1 of 1");
  refused([](AttendItem& i) { i.query.q.dim = 32; }, "q.dim 32");
  refused([](AttendItem& i) { i.query.q.heads = 3; }, "q.heads 3");
  refused([](AttendItem& i) { i.query.out.tokens = 2; }, "out is [2, 4, 64]");
  refused([](AttendItem& i) { i.query.q.data = nullptr; }, "no data");
  refused([](AttendItem& i) { i.query.scale = std::numeric_limits<float>::infinity(); }, "scale");
  refused([](AttendItem& i) { i.query.softcap = -1.0f; }, "softcap");
  refused([](AttendItem& i) { i.query.first_position = 1000; }, "cover positions up to 424");
  refused([](AttendItem& i) { i.query.first_position = std::numeric_limits<std::uint64_t>::max(); }, "overflows");
  refused([](AttendItem& i) { i.cache.blocks = i.cache.blocks.first(2); }, "cover positions up to 256");
  std::vector<RawRows> raw(good.cache.raw.begin(), good.cache.raw.end());
  raw[1].first_position = 2;
  refused([&](AttendItem& i) { i.cache.raw = raw; }, "before the end of the piece before");
  raw[1].first_position = std::numeric_limits<std::uint64_t>::max();
  refused([&](AttendItem& i) { i.cache.raw = raw; }, "overflows");
}

}  // namespace
}  // namespace kvant::quantizers
