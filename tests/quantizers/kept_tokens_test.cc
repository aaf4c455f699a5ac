// Attention over a part of the tokens, and what tokens get of the weights, against brute force in double.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quantizers/attention/units.h"
#include "quantizers/attention/worker_team.h"
#include "tests/quantizers/attention_case.h"

namespace kvant::quantizers {
namespace {

using test::AttentionCase;
using test::CaseShape;

void ExpectMatchesReference(const CaseShape& shape, std::uint64_t seed) {
  test::ExpectMatchesReference(Registry::Builtin(), shape, seed);
}

TEST(KeptTokensTest, TheGapOfAWindowLiesBetweenSinksAndNewestTokens) {
  const KeptTokens kept{.window = 10, .sinks = 4, .whole_below = 20};
  EXPECT_TRUE(kept.Gap(9).empty());
  EXPECT_TRUE(kept.Gap(19).empty()) << "below the length from which it works";
  EXPECT_EQ(kept.Gap(20).begin, 4u);
  EXPECT_EQ(kept.Gap(20).end, 11u) << "11 to 20 are ten tokens";
  EXPECT_TRUE((KeptTokens{.window = 10, .sinks = 8}.Gap(12).empty()));
}

TEST(KeptTokensTest, AListIsSearchedByWords) {
  const std::vector<std::uint64_t> bits{0, std::uint64_t{1} << 63, 0, 1, 0, 0};  // two heads of 3 words
  const KeptTokens kept{.bits = bits.data(), .words = 3, .end = 180};
  EXPECT_FALSE(kept.ListHas(0, {0, 127}));
  EXPECT_TRUE(kept.ListHas(0, {0, 128}));
  EXPECT_TRUE(kept.ListHas(0, {127, 128}));
  EXPECT_FALSE(kept.ListHas(0, {128, 180}));
  EXPECT_TRUE(kept.ListHas(0, {128, 181})) << "what lies behind the list is kept";
  EXPECT_FALSE(kept.ListHas(0, {64, 64}));
  EXPECT_TRUE(kept.ListHas(1, {0, 1}));
  EXPECT_FALSE(kept.ListHas(1, {1, 180}));
  EXPECT_FALSE(kept.Has(0, {0, 180}, {100, 140})) << "the one token lies in the gap";
  EXPECT_TRUE(kept.Has(0, {0, 180}, {128, 140}));
}

TEST(KeptTokensTest, WindowsWithSinksMatchBruteForce) {
  std::uint64_t seed = 1;
  for (const std::size_t group : {1, 4, 16}) {
    for (const std::size_t queries : {1, 5, 70}) {
      CaseShape shape{.keys = "int8", .values = "f16", .group = group, .sealed_blocks = 12, .tail = 90, .queries = queries};
      for (const KeptTokens& kept : {KeptTokens{.window = 300, .sinks = 4}, KeptTokens{.window = 300, .sinks = 0},
                                     KeptTokens{.window = 130, .sinks = 700}, KeptTokens{.window = 5, .sinks = 1},
                                     KeptTokens{.window = 300, .sinks = 4, .whole_below = 1600}, KeptTokens{.window = 5000}}) {
        shape.kept = kept;
        shape.votes = !shape.votes;
        ExpectMatchesReference(shape, seed++);
      }
      shape.window = 400;  // the model's own hides more
      ExpectMatchesReference(shape, seed++);
    }
  }
}

TEST(KeptTokensTest, ListsMatchBruteForce) {
  std::uint64_t seed = 100;
  for (const std::string codec : {"f32", "turboquant_mse:bits=2"}) {
    for (const double share : {0.0, 0.03, 0.5}) {
      for (const std::size_t queries : {1, 70}) {
        CaseShape shape{.keys = codec, .values = codec, .group = 2, .sealed_blocks = 40, .tail = 150, .queries = queries};
        shape.block_tokens = 64;
        shape.sinks = 8;
        shape.kept_share = share;
        for (const std::uint64_t end : {40 * 64 + 70, 2000, 64, 1}) {
          shape.kept_end = end;
          shape.votes = true;
          ExpectMatchesReference(shape, seed++);
        }
        shape.window = 900;
        shape.kept_end = 2500;
        shape.softcap = 3.0f;
        shape.sink_logits = true;
        shape.raw_pieces = 2;
        ExpectMatchesReference(shape, seed++);
      }
    }
  }
}

TEST(KeptTokensTest, OddHeadSizesAndGroups) {
  std::uint64_t seed = 200;
  for (const std::size_t dim : {24, 80, 256}) {
    for (const std::size_t group : {1, 3, 16}) {
      CaseShape shape{.keys = "int8", .values = "int8", .head_dim = dim, .kv_heads = 3, .group = group, .sealed_blocks = 9};
      shape.kept_share = 0.2;
      shape.kept_end = 1100;
      shape.votes = true;
      shape.queries = 3;
      ExpectMatchesReference(shape, seed++);
    }
  }
}

TEST(KeptTokensTest, RawRowsOverCodesVoteOnce) {
  CaseShape shape{.keys = "f16", .values = "f16", .group = 2, .sealed_blocks = 5, .tail = 70, .queries = 2};
  shape.raw_overlap = 100;
  shape.sinks = 16;
  shape.votes = true;
  ExpectMatchesReference(shape, 300);
  shape.kept_share = 0.4;
  shape.kept_end = 5 * 128 - 20;
  ExpectMatchesReference(shape, 301);
}

TEST(KeptTokensTest, BlocksThatNobodyKeepsAreNotRead) {
  const Registry registry = Registry::Builtin();
  CaseShape shape{.keys = "int8", .values = "int8", .kv_heads = 4, .sealed_blocks = 320, .tail = 40};
  shape.head_dim = 16;
  AttentionCase problem(registry, shape, 400);
  const auto tokens_read = [&](const KeptTokens& kept) {
    problem.item().cache.kept = kept;
    Units units;
    units.Cut({&problem.item(), 1});
    std::size_t tokens = 0;
    for (const TileRun& unit : units.units) tokens += (unit.block_end - unit.block_begin) * shape.block_tokens;
    return tokens;
  };
  EXPECT_EQ(tokens_read({}), 4 * 320 * shape.block_tokens);
  // The first run has the sinks that lie in a block; the last two have the window.
  EXPECT_LE(tokens_read({.window = 4096, .sinks = 4}), 4 * 3 * 4096u);
  std::vector<std::uint64_t> bits(4 * 640);
  bits[640] = 1;  // one token of the second KV head
  EXPECT_LE(tokens_read({.bits = bits.data(), .words = 640, .end = 320 * 128}), 5 * 4096u) << "one run, and one of each head";
}

/// Query heads of a KV head share tiles with one another and with queries of other positions, whose windows end elsewhere.
TEST(KeptTokensTest, TilesOfSeveralHeadsAndPositionsMatchBruteForce) {
  std::uint64_t seed = 400;
  for (const std::size_t group : {3, 8, 16}) {
    for (const std::size_t queries : {2, 7, 33}) {
      CaseShape shape{.keys = "int8", .values = "f16", .kv_heads = 3, .group = group, .sealed_blocks = 9, .tail = 60};
      shape.queries = queries;
      shape.votes = true;
      shape.kept_share = 0.3;
      shape.kept_end = 9 * 128 + 1;  // the last word has one bit
      ExpectMatchesReference(shape, seed++);
      shape.kept = {.window = 500, .sinks = 70};
      ExpectMatchesReference(shape, seed++);
      shape.kept.whole_below = static_cast<std::uint32_t>(9 * 128 + 60 - queries / 2);  // some of a tile's queries see all
      ExpectMatchesReference(shape, seed++);
    }
  }
}

/// Queries of earlier tokens, before the end of what is cached: votes have room for what those see and not a number more.
TEST(KeptTokensTest, VotesOfEarlierQueriesEndWhereTheQueriesDo) {
  constexpr float kCanary = -0.0f;  // which adding 0 changes
  constexpr std::size_t kGuard = 256;
  const Registry registry = Registry::Builtin();
  std::uint64_t seed = 700;
  // In the sinks, in a block, at its end and begin, in raw rows over codes, and in the tail's pieces.
  for (const std::size_t first : {0, 3, 60, 126, 127, 128, 300, 500, 511, 520, 549}) {
    for (const std::size_t queries : {1, 2, 5, 40}) {
      CaseShape shape{.keys = "f32", .values = "f32", .group = 4, .sealed_blocks = 4, .sinks = 8, .raw_overlap = 30};
      shape.tail = 80;
      shape.raw_pieces = 2;
      shape.queries = queries;
      shape.votes = true;
      shape.kept_share = first < 300 ? 1.0 : 0.5;
      shape.kept_end = 420;
      AttentionCase problem(registry, shape, seed++);
      const std::size_t end = first + queries, heads = shape.kv_heads;
      if (end > problem.total()) continue;
      SCOPED_TRACE("queries at " + std::to_string(first) + " to " + std::to_string(end));
      Query& query = problem.item().query;
      query.first_position = first;
      std::vector<float> memory(2 * kGuard + heads * end, kCanary);
      query.votes = memory.data() + kGuard;
      query.votes_stride = end;
      std::fill_n(query.votes, heads * end, 0.0f);
      ASSERT_TRUE(CheckItem(problem.item())) << CheckItem(problem.item()).error().message;
      WorkerTeam alone(0);
      Attention(alone).Run({&problem.item(), 1});
      const auto untouched = [](float x) { return std::signbit(x); };
      EXPECT_EQ(std::ranges::count_if(memory, untouched), 2 * static_cast<std::ptrdiff_t>(kGuard));
      const auto expected = problem.Reference(true).votes;
      double hidden = 0;
      for (std::size_t h = 0; h < heads; ++h) {
        for (std::size_t p = 0; p < end; ++p) hidden += std::abs(query.votes[h * end + p] - expected[h * problem.total() + p]);
      }
      // As in ExpectMatchesReference; f32 codes lose nothing.
      EXPECT_LE(hidden, 20 * 1e-5 * static_cast<double>(queries * heads * shape.group));
    }
  }
}

TEST(KeptTokensTest, SameBitsForAnyNumberOfThreadsAndInABatch) {
  const Registry registry = Registry::Builtin();
  CaseShape shape{.keys = "int8", .values = "f16", .group = 2, .sealed_blocks = 80, .tail = 70, .queries = 40};
  shape.head_dim = 16;
  shape.kept_share = 0.2;
  shape.kept_end = 80 * 128;
  shape.votes = true;
  AttentionCase a(registry, shape, 500), b(registry, shape, 501);
  std::vector<std::vector<std::byte>> answers;
  std::vector<std::vector<float>> votes;
  for (const std::size_t helpers : {0, 3}) {
    for (const bool batch : {false, true}) {
      WorkerTeam team(helpers);
      Attention attention(team);
      a.ClearOutput();
      b.ClearOutput();
      const AttendItem both[] = {a.item(), b.item()};
      attention.Run(std::span(both).first(batch ? 2 : 1));
      answers.push_back(a.OutputBytes());
      votes.push_back(a.Votes());
    }
  }
  for (std::size_t i = 1; i < answers.size(); ++i) {
    EXPECT_EQ(answers[i], answers[0]);
    EXPECT_EQ(votes[i], votes[0]);
  }
}

TEST(KeptTokensTest, ChecksNameWhatDoesNotFit) {
  const Registry registry = Registry::Builtin();
  AttentionCase problem(registry, {.votes = true}, 600);
  const auto refusal = [&] {
    const auto checked = CheckItem(problem.item());
    return checked ? std::string() : checked.error().message;
  };
  ASSERT_EQ(refusal(), "");
  problem.item().query.votes_stride = problem.total() - 1;
  EXPECT_NE(refusal().find("votes have room for 423"), std::string::npos) << refusal();
  problem.item().query.votes_stride = problem.total();
  problem.item().query.lse = nullptr;
  EXPECT_NE(refusal().find("votes without lse"), std::string::npos) << refusal();
  problem.item().query.votes = nullptr;
  const std::uint64_t bits[4] = {};
  problem.item().cache.kept = {.bits = bits, .words = 1, .end = 65};
  EXPECT_NE(refusal().find("1 words per KV head, 65 tokens need 2"), std::string::npos) << refusal();
}

}  // namespace
}  // namespace kvant::quantizers
