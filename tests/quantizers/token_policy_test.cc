// Token policies as text, and what is chosen by scores.
#include "quantizers/tokens/token_policy.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "quantizers/tokens/choose.h"

namespace kvant::quantizers {
namespace {

std::string Refusal(const std::string& text) {
  const auto policy = TokenPolicy::Parse(text);
  return policy ? "accepted as " + policy->Canonical() : policy.error().message;
}

TEST(TokenPolicyTest, TextsHaveDefaultsAndReadBack) {
  for (const auto& [text, canonical] :
       {std::pair{"", "all"},
        {"all", "all"},
        {"window", "window:tokens=4096,sinks=4,min=0"},
        {"window:sinks=0,tokens=2", "window:tokens=2,sinks=0,min=0"},
        {"snapkv", "snapkv:budget=2048,window=32,kernel=7,pool=max,sinks=4,min=0"},
        {"snapkv:pool=avg,min=9,kernel=1", "snapkv:budget=2048,window=32,kernel=1,pool=avg,sinks=4,min=9"},
        {"h2o:budget=1025", "h2o:budget=1025,recent=1024,sinks=0,min=0"}}) {
    const auto policy = TokenPolicy::Parse(text);
    ASSERT_TRUE(policy) << policy.error().message;
    EXPECT_EQ(policy->Canonical(), canonical);
    EXPECT_EQ(TokenPolicy::Parse(policy->Canonical())->Canonical(), canonical);
  }
}

TEST(TokenPolicyTest, FaultsAreNamed) {
  const auto refused = [](const std::string& text, const std::string& why) {
    EXPECT_NE(Refusal(text).find(why), std::string::npos) << Refusal(text);
    EXPECT_NE(Refusal(text).find(text), std::string::npos) << "names what was given: " << Refusal(text);
  };
  refused("windows", "known: all, window, snapkv, h2o");
  refused("window:budget=3", "unknown parameter \"budget\" (known: tokens, sinks, min)");
  refused("all:tokens=3", "known: none");
  refused("window:tokens=1", "tokens=1 is not a number in 2..");
  refused("window:tokens=-5", "tokens=-5 is not");
  refused("window:tokens=5x", "tokens=5x is not");
  refused("window:tokens=4294967296", "is not a number");
  refused("window:tokens", "tokens= is not");
  refused("window:", "unknown parameter \"\"");
  refused("window:tokens=5,", "unknown parameter \"\"");
  refused("window:tokens=5,tokens=6", "tokens is given twice");
  refused("snapkv:pool=min", "pool=min is neither max nor avg");
  refused("snapkv:kernel=4", "kernel 4 is even");
  refused("snapkv:budget=35", "budget 35 is less than the 36 tokens that always stay (32 newest and 4 sinks)");
  refused("h2o:budget=9,recent=10", "less than the 10 tokens");
  EXPECT_LT(Refusal(std::string(1 << 20, 'x')).size(), 400u);
}

std::vector<float> Pooled(std::vector<float> scores, std::uint32_t kernel, Pooling pool) {
  PoolScores(scores, kernel, pool);
  return scores;
}

TEST(ChooseTest, PoolingLooksAtTheNeighboursThereAre) {
  EXPECT_EQ(Pooled({1, 5, 2, 0}, 3, Pooling::kMax), (std::vector<float>{5, 5, 5, 2}));
  EXPECT_EQ(Pooled({3, 6, 0, 3}, 3, Pooling::kAverage), (std::vector<float>{3, 3, 3, 1}));
  EXPECT_EQ(Pooled({1, 2}, 1, Pooling::kMax), (std::vector<float>{1, 2}));
  EXPECT_EQ(Pooled({1, 2}, 9, Pooling::kMax), (std::vector<float>{2, 2}));
  EXPECT_EQ(Pooled({}, 9, Pooling::kMax), (std::vector<float>{}));
}

struct Chosen {
  std::vector<std::uint64_t> tokens;
  std::size_t count = 0;
};

Chosen Choose(const TokenPolicy& policy, const std::vector<float>& scores, std::vector<std::uint64_t> kept) {
  std::vector<std::uint32_t> scratch;
  Chosen chosen;
  chosen.count = ChooseTokens(policy, scores, scores.size(), kept, scratch);
  for (std::uint64_t p = 0; p < scores.size(); ++p) {
    if ((kept[p / 64] >> (p % 64) & 1) != 0) chosen.tokens.push_back(p);
  }
  return chosen;
}

TEST(ChooseTest, SinksAndNewestStayThenTheHighestThenTheNewer) {
  TokenPolicy policy{.kind = PolicyKind::kH2O, .budget = 6, .recent = 2, .sinks = 1};
  const std::uint64_t all = ~std::uint64_t{0};
  const auto chosen = Choose(policy, {0, 7, 3, 3, 3, 9, 1, 0, 0}, {all});
  EXPECT_EQ(chosen.tokens, (std::vector<std::uint64_t>{0, 1, 4, 5, 7, 8})) << "of three equal scores the newest";
  EXPECT_EQ(chosen.count, 6u);
  // What was dropped does not come back, whatever its score.
  EXPECT_EQ(Choose(policy, {0, 7, 3, 3, 3, 9, 1, 0, 0}, {all & ~std::uint64_t{0b100010}}).tokens,
            (std::vector<std::uint64_t>{0, 2, 3, 4, 7, 8}));
  EXPECT_EQ(Choose(policy, {0, 7, 3, 3, 3, 9}, {all}).count, 6u) << "within the budget";
  policy.sinks = 8;
  EXPECT_EQ(Choose(policy, {0, 7, 3, 3, 3, 9, 1, 0, 0}, {all}).count, 9u) << "there is nothing but sinks and newest";
}

TEST(ChooseTest, WordsAreNotTheirOwnWorlds) {
  TokenPolicy policy{.kind = PolicyKind::kH2O, .budget = 5, .recent = 3, .sinks = 0};
  std::vector<float> scores(200);
  scores[63] = 2;
  scores[64] = 3;
  scores[128] = 1;
  const auto chosen = Choose(policy, scores, std::vector<std::uint64_t>(4, ~std::uint64_t{0}));
  EXPECT_EQ(chosen.tokens, (std::vector<std::uint64_t>{63, 64, 197, 198, 199}));
  EXPECT_EQ(CountKept(std::vector<std::uint64_t>(4, ~std::uint64_t{0}), 130), 130u);
  EXPECT_EQ(CountKept(std::vector<std::uint64_t>(4, ~std::uint64_t{0}), 128), 128u);
}

}  // namespace
}  // namespace kvant::quantizers
