// How calls are cut: prefixes that a batch shares are read once, and no cut shows in a result.
#include "quantizers/attention/units.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
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

std::size_t BlocksRead(const Units& units) {
  std::size_t blocks = 0;
  for (const TileRun& unit : units.units) blocks += unit.block_end - unit.block_begin;
  return blocks;
}

/// Sequences that begin with the same `shared` blocks and go on differently.
class SharedPrefix {
 public:
  SharedPrefix(CaseShape shape, std::size_t sequences, std::size_t shared) {
    for (std::size_t i = 0; i < sequences; ++i) {
      cases_.push_back(std::make_unique<AttentionCase>(registry_, shape, 100 + i));
      AttendItem item = cases_[i]->item();
      const AttendItem& first = cases_[0]->item();
      item.cache.plan = first.cache.plan;
      auto& blocks = blocks_.emplace_back(item.cache.blocks.begin(), item.cache.blocks.end());
      std::copy_n(first.cache.blocks.begin(), shared, blocks.begin());
      items_.push_back(item);
    }
    for (std::size_t i = 0; i < sequences; ++i) items_[i].cache.blocks = blocks_[i];
  }

  [[nodiscard]] std::vector<AttendItem>& items() { return items_; }
  [[nodiscard]] std::vector<std::vector<std::byte>> Run(Attention& attention, bool together) {
    for (auto& problem : cases_) problem->ClearOutput();
    if (together) {
      attention.Run(items_);
    } else {
      for (const AttendItem& item : items_) attention.Run({&item, 1});
    }
    std::vector<std::vector<std::byte>> out;
    for (auto& problem : cases_) out.push_back(problem->OutputBytes());
    return out;
  }

 private:
  Registry registry_ = Registry::Builtin();
  std::vector<std::unique_ptr<AttentionCase>> cases_;
  std::vector<std::vector<const std::byte*>> blocks_;
  std::vector<AttendItem> items_;
};

/// Whatever the waves are, results are the same bits; and no more partial results are in memory than asked for, but for the
/// last tile's.
TEST(WavesTest, ShowInNoResult) {
  WorkerTeam team(2);
  for (const std::size_t queries : {1, 150}) {
    CaseShape shape{.keys = "int8", .values = "f16", .head_dim = 32, .group = 3, .sealed_blocks = 20, .tail = 200};
    shape.queries = queries;
    SharedPrefix batch(shape, 5, queries == 1 ? 18 : 0);
    Attention whole(team);
    const auto expected = batch.Run(whole, true);
    for (const std::size_t bytes : {std::size_t{4}, std::size_t{1} << 14, std::size_t{1} << 17}) {
      Attention attention(team, bytes);
      EXPECT_EQ(batch.Run(attention, true), expected) << queries << " queries, " << bytes << " bytes";
      Units units, one;
      units.Cut(batch.items(), bytes / sizeof(float));
      if (queries == 1) continue;
      EXPECT_GT(units.waves.size(), 2u);
      one.Cut(batch.items(), 0);  // a wave for each tile
      EXPECT_LE(units.partial_floats, bytes / sizeof(float) + one.partial_floats);
    }
  }
}

class SharedPrefixTest : public testing::TestWithParam<std::string> {};

TEST_P(SharedPrefixTest, BatchGivesTheBitsOfOneByOne) {
  WorkerTeam team(1);
  Attention attention(team);
  for (const std::size_t queries : {1, 3}) {
    // Runs of two KV heads are 8 blocks: two of them are shared, the rest is not.
    CaseShape shape{.keys = GetParam(), .values = GetParam(), .head_dim = 32, .group = 3, .sealed_blocks = 20, .tail = 30};
    shape.queries = queries;
    shape.spread = 3.0f;
    SharedPrefix batch(shape, 9, 18);
    const auto alone = batch.Run(attention, false);
    EXPECT_EQ(batch.Run(attention, true), alone);
  }
}

INSTANTIATE_TEST_SUITE_P(Codecs, SharedPrefixTest,
                         testing::Values("f32", "f16", "int8", "turboquant_mse:bits=2", "turboquant_mse:bits=8"),
                         [](const auto& codec) {
                           std::string name = codec.param;
                           std::replace_if(
                               name.begin(), name.end(), [](char c) { return c == ':' || c == '='; }, '_');
                           return name;
                         });

TEST(UnitsTest, SharedBlocksAreReadOnceForAll) {
  CaseShape shape{.head_dim = 16, .kv_heads = 4, .group = 4, .sealed_blocks = 40};
  SharedPrefix batch(shape, 8, 36);  // runs of four KV heads are 32 blocks
  Units units;
  units.Cut({batch.items().data(), 1});
  const std::size_t one = BlocksRead(units);
  EXPECT_EQ(one, 4u * 40u);
  units.Cut(batch.items());
  EXPECT_EQ(BlocksRead(units), 4u * (32u + 8u * 8u));
}

TEST(UnitsTest, WhatDiffersIsNotShared) {
  CaseShape shape{.head_dim = 16, .kv_heads = 4, .group = 4, .sealed_blocks = 40};
  const auto read = [&](auto change) {
    SharedPrefix batch(shape, 2, 36);
    change(batch.items()[1]);
    Units units;
    units.Cut(batch.items());
    return BlocksRead(units);
  };
  const std::size_t apart = 2 * 4 * 40;
  EXPECT_LT(read([](AttendItem&) {}), apart);
  EXPECT_EQ(read([](AttendItem& i) { i.query.softcap = 3.0f; }), apart);
  EXPECT_LT(read([](AttendItem& i) { i.query.window = 300; }), apart);  // reads less, but by itself
  std::vector<RawRows> raw;
  EXPECT_EQ(read([&](AttendItem& i) {  // other sinks
              raw.assign(i.cache.raw.begin(), i.cache.raw.end());
              raw[0].count -= 1;
              i.cache.raw = raw;
            }),
            apart);
}

TEST(UnitsTest, OneKvHeadStillHasUnitsForEveryThread) {
  AttentionCase problem(Registry::Builtin(), {.head_dim = 16, .kv_heads = 1, .group = 4, .sealed_blocks = 32}, 1);
  Units units;
  units.Cut({&problem.item(), 1});
  EXPECT_GE(units.units.size(), 4u);
}

TEST(UnitsTest, EveryVisibleBlockIsInExactlyOneUnitOfEachQuery) {
  for (const std::uint32_t window : {0u, 1000u}) {
    for (const std::size_t queries : {1u, 40u}) {
      CaseShape shape{.head_dim = 16, .kv_heads = 2, .group = 4, .sealed_blocks = 21, .tail = 60};
      shape.queries = queries;
      shape.window = window;
      AttentionCase problem(Registry::Builtin(), shape, 2);
      Units units;
      units.Cut({&problem.item(), 1});
      std::vector<int> seen(2 * queries * 4 * 21);
      for (const TileRun& unit : units.units) {
        for (std::size_t i = unit.first; i < unit.first + unit.count; ++i) {
          for (std::size_t b = unit.block_begin; b < unit.block_end; ++b) ++seen[(unit.head * queries * 4 + i) * 21 + b];
        }
      }
      for (std::size_t head = 0; head < 2; ++head) {
        for (std::size_t i = 0; i < queries * 4; ++i) {
          for (std::size_t b = 0; b < 21; ++b) {
            const bool visible = Visible(problem.item().query, i / 4).begin < (b + 1) * 128;
            const int times = seen[(head * queries * 4 + i) * 21 + b];
            EXPECT_LE(times, 1);
            EXPECT_GE(times, visible ? 1 : 0) << "query " << i << " block " << b;
          }
        }
      }
    }
  }
}

/// A window that cuts runs: early queries see parts of two, late ones less than one.
CaseShape WindowAcrossRuns() {
  CaseShape shape{
      .head_dim = 16, .kv_heads = 1, .group = 4, .block_tokens = 32, .sealed_blocks = 40, .tail = 84, .queries = 64};
  shape.window = 300;
  return shape;
}

TEST(UnitsTest, RawPartsStandWhereTheirTilesLookForThem) {
  AttentionCase problem(Registry::Builtin(), WindowAcrossRuns(), 3);
  Units units;
  units.Cut({&problem.item(), 1});
  const bool whole = std::any_of(units.units.begin(), units.units.end(), [](const TileRun& unit) { return unit.whole; });
  ASSERT_TRUE(whole && !units.split.empty()) << "the shape is to have both kinds of tiles";
  constexpr std::size_t kTiles = 64 * 4 / kMaxQueries;
  ASSERT_EQ(units.raw_parts.size(), kTiles);
  for (const TileRun& unit : units.raw_units) {
    const Part& part = units.raw_parts[units.members[0].raw_part + unit.head * kTiles + unit.first / kMaxQueries];
    EXPECT_EQ(part.partial, unit.partial);
    EXPECT_EQ(part.unit_count, unit.count);
  }
}

TEST(UnitsTest, AWindowAcrossRunsGivesTheReference) {
  for (const char* codec : {"f32", "turboquant_mse:bits=4"}) {
    CaseShape shape = WindowAcrossRuns();
    shape.keys = shape.values = codec;
    test::ExpectMatchesReference(Registry::Builtin(), shape, 4);
  }
}

/// Overwrites the values of every block whose weight, for each head's only query, is far below what may be left out beside the
/// raw rows' weight; returns how many.
std::size_t SpoilNegligibleValues(const AttentionCase& problem, AttendItem& item, const AttentionCase::Answer& answer) {
  const Plan& plan = problem.plan();
  const std::size_t heads = problem.plan().spec().kv_heads, blocks = item.cache.blocks.size();
  std::size_t spoilt = 0;
  for (std::size_t head = 0; head < heads; ++head) {
    const double* weights = answer.weights.data() + head * problem.total();
    double raw = 0.0;
    for (std::size_t t = blocks * 128; t < problem.total(); ++t) raw += weights[t];
    const std::size_t runs = (blocks + 7) / 8;
    double allowed = static_cast<double>(plan.codecs(0, head).negligible_weight) * raw / static_cast<double>(runs);
    allowed /= static_cast<double>(blocks);  // even if all blocks of the run were left out
    for (std::size_t block = 0; block < blocks; ++block) {
      double weight = 0.0;
      for (std::size_t t = block * 128; t < (block + 1) * 128; ++t) weight += weights[t];
      if (weight > allowed) continue;
      const Place place = plan.place(0, head, Side::kValues);
      std::memset(const_cast<std::byte*>(place.In(item.cache.blocks[block]).part[0]), 0x5A, place.bytes[0]);
      ++spoilt;
    }
  }
  return spoilt;
}

TEST(NegligibleValuesTest, AreNotReadAndCostAtMostTheirBound) {
  CaseShape shape{.keys = "f32", .values = "turboquant_mse:bits=4", .head_dim = 64, .kv_heads = 2, .group = 1};
  shape.sealed_blocks = 16;
  shape.sinks = 0;
  shape.tail = 128;
  shape.spread = 25.0f;  // sharp: most blocks have next to no weight
  std::size_t spoilt = 0;
  WorkerTeam alone(0);
  Attention attention(alone);
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    AttentionCase problem(Registry::Builtin(), shape, seed);
    attention.Run({&problem.item(), 1});
    const auto before = problem.Outputs();
    const auto answer = problem.Reference(true);
    // What is left out is at most negligible_weight of values whose numbers are below 6 (they are normal); the rest is
    // rounding.
    const double bound = 6.0 * static_cast<double>(problem.plan().codecs(0, 0).negligible_weight) + 0.01;
    for (std::size_t i = 0; i < before.size(); ++i) EXPECT_NEAR(before[i], answer.out[i], bound);
    spoilt += SpoilNegligibleValues(problem, problem.item(), answer);
    attention.Run({&problem.item(), 1});
    EXPECT_EQ(problem.Outputs(), before) << "seed " << seed;  // values that were read would show
  }
  EXPECT_GT(spoilt, 20u);
}

}  // namespace
}  // namespace kvant::quantizers
